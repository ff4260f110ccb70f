"""Text as a column of Dataverse accepts it."""

from __future__ import annotations

import json
import re

from pydantic import JsonValue

REPLACEMENT = "\ufffd"
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Dataverse passes text through XML, and refuses the whole row for one of these characters (XML 1.0, section 2.2)."""


def clean(text: str) -> str:
    """Return the text with U+FFFD in place of each character that no column can hold."""
    return _NOT_XML.sub(REPLACEMENT, text)


def json_text(value: JsonValue) -> str:
    """Return the value as compact JSON text. Escapes replace the characters that no column can hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def length(text: str) -> int:
    """Return the length as Dataverse counts it: in UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def shortened(text: str, max_characters: int) -> str:
    """Return the start of the text with an ellipsis if it is too long, else the text."""
    if length(text) <= max_characters:
        return text
    head = text.encode("utf-16-le", "surrogatepass")[: 2 * (max_characters - 1)]
    return head.decode("utf-16-le", "ignore") + "…"
