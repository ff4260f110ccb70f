"""Builds the JSON Schemas (draft 2020-12) of the two message bodies."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import BaseModel, JsonValue

from flow_contracts.message import Message
from flow_contracts.request import CONTRACT as REQUEST_CONTRACT
from flow_contracts.request import RequestBody
from flow_contracts.result import CONTRACT as RESULT_CONTRACT
from flow_contracts.result import FlowResult
from flow_contracts.schema import examples

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def request_schema() -> dict[str, JsonValue]:
    """Return the schema of a request message's body."""
    return _schema(RequestBody, REQUEST_CONTRACT, examples.requests().values())


def result_schema() -> dict[str, JsonValue]:
    """Return the schema of a result message's body. It allows further fields, because later versions may add some."""
    return _schema(FlowResult, RESULT_CONTRACT, examples.results().values())


def _schema(model: type[BaseModel], contract: str, messages: Iterable[Message]) -> dict[str, JsonValue]:
    return {
        "$schema": DIALECT,
        "$id": f"urn:flow-worker:{contract.replace('/', ':')}",
        **model.model_json_schema(),
        "examples": [json.loads(message.body) for message in messages],
    }
