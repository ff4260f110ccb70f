"""The answer of a flow as plain data. Its body is decoded once, when the answer is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue
from pydantic_core import to_json

from flow_contracts.output import encode_output
from flow_contracts.result import FlowError, OutputEncoding
from flow_contracts.strict_json import Rest, no_rest
from flow_worker.flows import token_echo
from flow_worker.masking import masked

_MAX_TYPE_CHARACTERS = 256
_MEASURED_FROM_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class Content:
    """The decoded body of an answer, in the form of a result's output."""

    size: int = 0
    """The bytes of the decompressed body."""
    output: JsonValue = field(default=None, repr=False)
    output_type: str | None = None
    encoding: OutputEncoding | None = None
    output_bytes: int = 0
    """A lower bound of the output's size in a result; 0 for a small body, which is not measured."""
    unread: FlowError | None = None
    """The reason why the worker did not read the body. Its output, if any, is the body as the flow sent it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a flow."""

    status: int
    content: Content
    run_id: str | None
    tracking: Mapping[str, str]
    retry_after: str | None = None
    location: str | None = field(default=None, repr=False)
    """Absolute. A secret, since it may carry a signature."""


def unread(code: str, message: str) -> Content:
    """Return the content of a body that the worker did not read."""
    return Content(unread=FlowError(code=code, message=message))


TOO_LARGE = unread("output_too_large", "The flow's answer is larger than the worker reads.")


def decode_body(body: bytes, content_type: str | None, *, token: str = "", rest: Rest = no_rest) -> Content:
    """Decode a body. `token`: the worker's own, which no result may repeat, also if the flow sends it back.

    `rest` is called between two steps of a large body.
    """
    body = token_echo.without_token_bytes(body, token, rest)
    output, output_type, encoding = encode_output(body, content_type, rest=rest)
    if encoding == "text" or b"\\" in body or b"%" in body or b"&" in body:
        output = token_echo.without_spelled_token(output, encoding, body, token, rest)
    kind = None if output_type is None else masked_type(output_type, token)
    return Content(len(body), output, kind, encoding, _output_bytes(body, output))


def masked_type(content_type: str, token: str) -> str:
    """Return the media type for a result: masked and cut."""
    return masked(token_echo.without_token(content_type, token)[:_MAX_TYPE_CHARACTERS])


def _output_bytes(body: bytes, output: JsonValue) -> int:
    if len(body) < _MEASURED_FROM_BYTES:
        return 0
    return len(output) if isinstance(output, str) else len(to_json(output))
