"""The contracts for readers in other languages: JSON Schemas and an AsyncAPI document, generated from the models.

`python -m flow_contracts.schema FOLDER` writes them; `--check` reports which of them are out of date.
"""
