"""The contracts for other languages: JSON Schemas and an AsyncAPI document, generated from the models.

`python -m flow_contracts.schema FOLDER` writes them; `--check` reports those that are out of date.
"""
