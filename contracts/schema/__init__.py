"""The contracts for readers in other languages: JSON Schemas and an AsyncAPI document, generated from the models.

`python -m contracts.schema` writes them anew, `python -m contracts.schema --check` tells whether they are fresh.
"""
