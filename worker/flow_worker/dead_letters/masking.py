"""Masks secrets in text that the commands print: a sender may have put a token where it does not belong."""

from __future__ import annotations

import re

from pydantic import JsonValue

MASK = "***"
_SECRETS = re.compile(r"eyJ[\w-]+\.[\w-]+(\.[\w-]*)?|(?<=\bsig=)[^&\s\"']+")
"""Tokens (JWS compact form, which begins with the base64url of `{"`) and the signatures of URLs."""


def masked(text: str) -> str:
    """Return the text with tokens and signatures masked."""
    return _SECRETS.sub(MASK, text)


def masked_all(value: JsonValue) -> JsonValue:
    """Return the JSON document with tokens and signatures masked in every string."""
    match value:
        case str():
            return masked(value)
        case dict():
            return {name: masked_all(member) for name, member in value.items()}
        case list():
            return [masked_all(item) for item in value]
        case _:
            return value
