"""Encodes a flow's response body for a result: JSON as JSON, text as text, everything else as base64."""

from __future__ import annotations

import base64
import contextlib
from typing import Literal

from pydantic import JsonValue

from flow_contracts import strict_json

OutputEncoding = Literal["json", "text", "base64"]

MAX_VALUES = 100_000
"""The values of a JSON output. A short text can hold millions, each of which costs a program more than its text."""

_CHARSETS = {
    **dict.fromkeys(("utf-8", "utf8"), "utf-8"),
    **{name: name for name in ("utf-16", "utf-16le", "utf-16be")},
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "iso_8859-1", "latin-1", "latin1"), "latin-1"),
    **dict.fromkeys(("us-ascii", "ascii"), "ascii"),
    **{f"{prefix}{page}": f"cp{page}" for prefix in ("windows-", "cp") for page in range(1250, 1259)},
}
"""Python's codec for each character set that is decoded. Others can take quadratic time, such as punycode and idna."""


def encode_output(
    body: bytes, content_type: str | None, *, rest: strict_json.Rest = strict_json.no_rest
) -> tuple[JsonValue, str | None, OutputEncoding | None]:
    """Return the output, the flow's own media type and the encoding of the output; three None for an empty body.

    Every byte survives. A body that is declared JSON becomes text if it is not strict JSON or has more than
    `MAX_VALUES` values. Text in a wrong character set, or in one that is not in the list, becomes base64. `rest` is
    called between the steps for a long body.
    """
    if not body:
        return None, None, None
    media_type, charset = _split_content_type(content_type or "")
    if _is_json(media_type):
        with contextlib.suppress(strict_json.NotJson):
            return strict_json.parse(body, max_values=MAX_VALUES, rest=rest), content_type, "json"
        # Text instead of base64, so that a person can read the faulty JSON.
        charset = charset or "utf-8"
    if charset or _is_text(media_type):
        text = _decode(body, charset or "utf-8")
        rest()
        if text is not None:
            return text, content_type, "text"
    return base64.b64encode(body).decode("ascii"), content_type, "base64"


def _split_content_type(content_type: str) -> tuple[str, str | None]:
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return media_type, value.strip().strip("\"'")
    return media_type, None


def _is_json(media_type: str) -> bool:
    return media_type in ("application/json", "text/json") or media_type.endswith("+json")


def _is_text(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type == "application/xml" or media_type.endswith("+xml")


def _decode(body: bytes, charset: str) -> str | None:
    """Return the text; None if the character set is not in the list, or wrong."""
    codec = _CHARSETS.get(charset)
    if codec is None:
        return None
    try:
        return body.decode(codec)
    except UnicodeDecodeError:
        return None
