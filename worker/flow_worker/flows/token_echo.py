"""Masks the worker's own token in an answer: a flow can read the token and send it back in many spellings."""

from __future__ import annotations

import base64
import re

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from flow_contracts.result import OutputEncoding
from flow_worker.masking import MASK

_MIN_TOKEN_CHARACTERS = 32
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""Without byte order marks, which stand at the start of a text only."""
_ESCAPE = re.compile(r"\\u00([2-7][0-9A-Fa-f])")
_ESCAPE_BYTES = re.compile(rb"\\u00([2-7][0-9A-Fa-f])")


def _secrets(token: str) -> tuple[str, ...]:
    """Return the token, and its signature in case that the flow splits the token."""
    return tuple(secret for secret in (token, token.rpartition(".")[2]) if len(secret) >= _MIN_TOKEN_CHARACTERS)


def may_repeat(token: str, text: str) -> bool:
    """Return whether the text holds the token or its signature: a quick check, for several texts at a time."""
    return any(secret in text for secret in _secrets(token))


def without_token(text: str, token: str) -> str:
    """Return the text without the token."""
    for secret in _secrets(token):
        text = text.replace(secret, MASK)
    return text


def without_token_bytes(body: bytes, token: str) -> bytes:
    """Return the body without the token, in any character set that the token's characters allow."""
    codecs = ("ascii", *_WIDE) if b"\0" in body else ("ascii",)
    for secret in _secrets(token):
        for codec in codecs:
            spelling = secret.encode(codec, "replace")
            if spelling in body:
                body = body.replace(spelling, MASK.encode(codec))
    return body


def without_escaped_token(output: JsonValue, encoding: OutputEncoding | None, body: bytes, token: str) -> JsonValue:
    """Return the output without the token that JSON escapes spell, also in text that is no strict JSON."""
    if encoding == "json":
        return _masked_json(output, token)
    if encoding == "base64":
        unescaped = _ESCAPE_BYTES.sub(lambda escape: bytes.fromhex(escape[1].decode()), body)
        masked = without_token_bytes(unescaped, token)
        return output if masked == unescaped else base64.b64encode(masked).decode("ascii")
    if not isinstance(output, str):
        return output
    output = without_token(output, token)
    unescaped_text = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), output) if "\\u" in output else output
    # The other escapes of such a text are lost, which matters less than the token.
    return without_token(unescaped_text, token) if may_repeat(token, unescaped_text) else output


def _masked_json(output: JsonValue, token: str) -> JsonValue:
    text = to_json(output)
    masked = text
    for secret in _secrets(token):
        masked = masked.replace(secret.encode(), MASK.encode())
    # Not by the strict parser: two names may have become the same one.
    return output if masked == text else from_json(masked)
