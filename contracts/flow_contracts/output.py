"""Encodes a flow's response body for a result: JSON as JSON, text as text, everything else as base64."""

from __future__ import annotations

import base64
from typing import Literal

from pydantic import JsonValue

from flow_contracts import strict_json

OutputEncoding = Literal["json", "text", "base64"]


def encode_output(body: bytes, content_type: str | None) -> tuple[JsonValue, str | None, OutputEncoding | None]:
    """Return the output, the flow's own media type and the encoding of the output; three None for an empty body.

    Every byte survives. A body that is declared JSON and is not strict JSON becomes text. Text in an unknown or wrong
    character set becomes base64.
    """
    if not body:
        return None, None, None
    media_type, charset = _split_content_type(content_type or "")
    if _is_json(media_type):
        try:
            return strict_json.parse(body), content_type, "json"
        except strict_json.NotJson:
            # Text instead of base64, so that a person can read the faulty JSON.
            charset = charset or "utf-8"
    if charset or _is_text(media_type):
        text = _decode(body, charset or "utf-8")
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
    """Return the text; None if the character set is unknown or wrong, or if UTF-8 cannot express the text."""
    try:
        text = body.decode(charset)
        # Some character sets, such as UTF-7, yield lone surrogates, which no result could carry.
        text.encode("utf-8")
    except (LookupError, ValueError):
        return None
    return text
