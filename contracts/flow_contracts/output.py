"""How a flow's answer travels in a result: JSON as JSON, text as text, everything else as base64."""

from __future__ import annotations

import base64
from typing import Literal

from pydantic import JsonValue

from flow_contracts import jsontext

OutputEncoding = Literal["json", "text", "base64"]


def output_of(body: bytes, content_type: str | None) -> tuple[JsonValue, str | None, OutputEncoding | None]:
    """The output, its media type as the flow gave it, and the encoding it travels in; three None for an empty body.

    Nothing is lost: what claims to be JSON and is not strictly so travels as text, and text in an unknown or wrong
    character set as base64.
    """
    if not body:
        return None, None, None
    media_type, charset = _parsed(content_type or "")
    if _is_json(media_type):
        try:
            return jsontext.parse(body), content_type, "json"
        except jsontext.NotJson:
            charset = charset or "utf-8"
    if charset or _is_text(media_type):
        text = _decoded(body, charset or "utf-8")
        if text is not None:
            return text, content_type, "text"
    return base64.b64encode(body).decode("ascii"), content_type, "base64"


def _parsed(content_type: str) -> tuple[str, str | None]:
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


def _decoded(body: bytes, charset: str) -> str | None:
    """The text, None if the character set is unknown, wrong, or leads to what UTF-8 cannot carry."""
    try:
        text = body.decode(charset)
        text.encode("utf-8")
    except (LookupError, ValueError):
        return None
    return text
