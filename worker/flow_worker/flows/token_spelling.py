"""Recognizes a token in escapes. No serializer escapes the characters of a token, so only a flow on purpose does."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator

from flow_contracts.strict_json import Rest

MAX_SPELLED_CHARACTER = 16
"""The bytes that one character can take here."""
_SIGN_CHARACTERS = 16
"""Enough to recognize a secret of random characters, and few enough for a quick expression."""
_PIECE_BYTES = 16 * 1024
_TOKEN_CHARACTERS = frozenset((string.ascii_letters + string.digits + "-_.").encode())
_HEX = rb"(?:2[dDeE]|3\d|[46][1-9a-fA-F]|5[\daAfF]|7[\daA])"
_DECIMAL = rb"(?:4[5689]|5[0-7]|6[5-9]|[78]\d|9[05789]|1[01]\d|12[0-2])"
"""The codes of the characters of a token."""


def _escape(hexadecimal: bytes, decimal: bytes) -> bytes:
    """Return the expression for the escapes of a character: of JSON and its like, URLs and HTML, also nested."""
    return rb"(?:\\{1,8}(?:u00|u\{0{0,4}|x)%b\}?|%%(?:25){0,3}%b|&(?:amp;)?#(?:0{0,4}%b|[xX]0{0,4}%b);?)" % (
        *(hexadecimal, hexadecimal, decimal, hexadecimal),
    )


_ESCAPE = re.compile(_escape(b"(" + _HEX + b")", b"(" + _DECIMAL + b")"))


def expression_of(secrets: Iterable[bytes]) -> re.Pattern[bytes] | None:
    """Return an expression that finds the secrets, each character plain or escaped. Linear in the text."""
    signs = [b"".join(map(_spelled, secret[-_SIGN_CHARACTERS:])) for secret in secrets]
    return re.compile(b"|".join(signs)) if signs else None


def _spelled(character: int) -> bytes:
    code = b"%02x" % character
    digits = b"".join(b"[%c%c]" % (digit, digit - 32) if digit >= 97 else b"%c" % digit for digit in code)
    return b"(?:" + re.escape(bytes((character,))) + b"|" + _escape(digits, b"%d" % character) + b")"


def found_in(body: bytes, expression: Callable[[], re.Pattern[bytes] | None], rest: Rest) -> Iterator[tuple[int, int]]:
    """Yield where the expression finds a secret that has escapes around it, perhaps twice.

    In pieces, because a search lets no other thread run, and so stops the event loop.
    """
    if b"\\" not in body and b"%" not in body and b"&" not in body:
        return
    for at in range(0, len(body), _PIECE_BYTES):
        end = at + _PIECE_BYTES + _SIGN_CHARACTERS * MAX_SPELLED_CHARACTER
        if _ESCAPE.search(body, at, end) is not None and (compiled := expression()) is not None:
            for found in compiled.finditer(body, at, end):
                yield found.span()
        rest()


def plain(body: bytes) -> bytes:
    """Return the body with the characters of a token plain. No quote or bracket appears, so JSON stays JSON."""
    return _ESCAPE.sub(_character, body)


def _character(escape: re.Match[bytes]) -> bytes:
    backslash, percent, decimal, hexadecimal = escape.groups()
    code = int(decimal) if decimal else int(backslash or percent or hexadecimal, 16)
    return bytes((code,)) if code in _TOKEN_CHARACTERS else escape[0]
