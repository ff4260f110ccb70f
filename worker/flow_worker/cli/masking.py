"""Keeps secrets off the terminal that somebody wrote where none belongs."""

from __future__ import annotations

import re

from pydantic import JsonValue

MASK = "***"
_SECRETS = re.compile(r"eyJ[\w-]+\.[\w-]+(\.[\w-]*)?|(?<=\bsig=)[^&\s\"']+")
"""Tokens (JWS compact form: base64url of `{"…`) and the signatures of URLs."""


def masked(text: str) -> str:
    """The text without tokens and signatures."""
    return _SECRETS.sub(MASK, text)


def masked_all(value: JsonValue) -> JsonValue:
    """The same for every text in a document."""
    match value:
        case str():
            return masked(value)
        case dict():
            return {name: masked_all(one) for name, one in value.items()}
        case list():
            return [masked_all(one) for one in value]
        case _:
            return value
