"""Masks secrets in text from outside, before it reaches a log, a result, a continuation or a dead letter.

A flow or a sender may quote what it received: a token, a signed URL, a header. Masking too much costs a word of an
error message; masking too little opens a flow.
"""

from __future__ import annotations

import re

from pydantic import JsonValue

MASK = "***"

_HINTS = (
    "eyj", "sig", "bearer", "basic", "key", "token", "assertion", "secret", "password", "pwd", "cookie", "authoriz",
    "://",
)  # fmt: skip
"""A text without any of these, in lower case, holds nothing to mask. The check saves the slower expressions."""
_START = r"(?i)((?:(?<![A-Za-z0-9_])|(?<=%[0-9A-Fa-f]{2}))"
_VALUE = r"[^\s&\"',;<>()]"
_SECRET = rf"(?={_VALUE}{{20}}|{_VALUE}*\d){_VALUE}{{6,}}"
"""A value that looks like a secret rather than like a word: long, or with a digit."""
_NAMES = (
    r"(?:sig|sharedaccesskey|accountkey|apikey|"
    r"(?:[a-z0-9]{1,20}[-_]){0,4}(?:signature|token|assertion|secret|password|pwd|key))"
)
_JWT = re.compile(r"eyJ[\w-]{6,}(?:\.[\w-]*)*")
"""A token in compact form, also one that is cut off. It begins with the base64url of `{"`."""
_HEADER = re.compile(rf"{_START}(?:proxy-authorization|authorization|set-cookie|cookie)[\"']?\s{{0,4}}[:=])[^\r\n]+")
_SCHEME = re.compile(rf"{_START}(?:bearer|basic)\s{{1,4}}){_SECRET}")
_ASSIGNED = re.compile(rf"{_START}{_NAMES}(?:[\"']?\s{{0,4}}(?:=|%3d)|[\"']\s{{0,4}}:)\s{{0,4}}[\"']?){_VALUE}+")
_NAMED = re.compile(rf"{_START}{_NAMES}\s{{0,4}}:\s{{0,4}}){_SECRET}")
"""With a colon only, as in prose ("token: expired"): masked if the value looks like a secret."""
_URL = re.compile(r"(https?://)([^\s\"'<>/?#]*)([^\s\"'<>]*)", re.I)


def masked(text: str) -> str:
    """Return the text with tokens, signatures, keys, cookies and the paths of flows masked. Linear in its length."""
    if not may_hold_secret(text):
        return text
    text = _URL.sub(_masked_url, text)
    text = _JWT.sub(MASK, text)
    text = _HEADER.sub(rf"\1 {MASK}", text)
    for expression in (_SCHEME, _ASSIGNED, _NAMED):
        text = expression.sub(rf"\1{MASK}", text)
    return text


def may_hold_secret(text: str) -> bool:
    """Return whether masking could change the text: a quick check, for several texts at a time."""
    lower = text.lower()
    for hint in _HINTS:  # noqa: SIM110 - a generator would take twice as long
        if hint in lower:
            return True
    return False


def masked_all(value: JsonValue) -> JsonValue:
    """Return the JSON document with secrets masked in every string."""
    match value:
        case str():
            return masked(value)
        case dict():
            return {name: masked_all(member) for name, member in value.items()}
        case list():
            return [masked_all(item) for item in value]
        case _:
            return value


def _masked_url(url: re.Match[str]) -> str:
    """Keep the host. A path with a workflow or a query can start a flow or read its run."""
    scheme, authority, rest = url.groups()
    user, at, host = authority.rpartition("@")
    host = MASK + at + host if user else host
    is_secret = "?" in rest or "/workflows/" in rest.lower()
    return scheme + host + (f"/{MASK}" if is_secret else rest)
