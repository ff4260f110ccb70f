"""The answer of a flow as plain data. Its body is decoded once, when the answer is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from flow_contracts.output import encode_output
from flow_contracts.result import FlowError, OutputEncoding
from flow_worker.masking import MASK, masked

_MIN_TOKEN_CHARACTERS = 32
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
    """The reason why the worker did not read the body. Then there is no output."""


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


def decode_body(body: bytes, content_type: str | None, *, token: str = "") -> Content:
    """Decode a body. `token`: the worker's own, which no result may repeat, also if the flow sends it back."""
    secrets = _secrets(token)
    for secret in secrets:
        if secret.encode() in body:
            body = body.replace(secret.encode(), MASK.encode())
    output, output_type, encoding = encode_output(body, content_type)
    if encoding == "text" and isinstance(output, str):
        for secret in secrets:  # UTF-16 hides it from the search in the bytes
            output = output.replace(secret, MASK)
    if encoding == "json" and secrets and b"\\u" in body:
        output = _without_escaped(output, secrets)
    kind = None if output_type is None else masked(output_type[:_MAX_TYPE_CHARACTERS])
    return Content(len(body), output, kind, encoding, _output_bytes(body, output))


def _secrets(token: str) -> tuple[str, ...]:
    """Return the token, and its signature in case that the flow splits the token."""
    return tuple(secret for secret in (token, token.rpartition(".")[2]) if len(secret) >= _MIN_TOKEN_CHARACTERS)


def _without_escaped(output: JsonValue, secrets: tuple[str, ...]) -> JsonValue:
    """Mask the secrets that the JSON text spells with escapes."""
    text = to_json(output)
    masked_text = text
    for secret in secrets:
        masked_text = masked_text.replace(secret.encode(), MASK.encode())
    # Not by the strict parser: two names may have become the same one.
    return output if masked_text == text else from_json(masked_text)


def _output_bytes(body: bytes, output: JsonValue) -> int:
    if len(body) < _MEASURED_FROM_BYTES:
        return 0
    return len(output) if isinstance(output, str) else len(to_json(output))
