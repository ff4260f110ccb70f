"""Masks the worker's own tokens in an answer: a flow can read its token and send it back in many spellings.

An answer can also hold an earlier token, which this worker may never have seen: a run's answer repeats the token of the
call, and the poll has another one. So the worker also masks each token that has its token's identity and audience.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache, partial

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from flow_contracts.result import OutputEncoding
from flow_contracts.strict_json import Rest, no_rest
from flow_worker.flows import token_spelling
from flow_worker.masking import MASK

_MIN_TOKEN_CHARACTERS = 32
_MIN_IDENTITY_CHARACTERS = 16
_IDENTITIES = ("oid", "appid", "azp", "sub")
_MASK_BYTES = MASK.encode()
_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/_-]{32,}={0,2}")


def _jwts(before: bytes, after: bytes) -> re.Pattern[bytes]:
    """Return the expression for tokens in a character set that puts zeros before or after each character."""
    e, y, j, other = (re.escape(before) + letter + re.escape(after) for letter in (b"e", b"y", b"J", rb"[\w.-]"))
    return re.compile(rb"%b%b%b(?:%b){6,}" % (e, y, j, other))


_JWTS = {
    "ascii": _jwts(b"", b""),
    "utf-16-le": _jwts(b"", b"\0"),
    "utf-16-be": _jwts(b"\0", b""),
    "utf-32-le": _jwts(b"", b"\0\0\0"),
    "utf-32-be": _jwts(b"\0\0\0", b""),
}
"""Without byte order marks, which stand at the start of a text only."""


@dataclass(frozen=True, slots=True)
class _Own:
    """The marks of a token, and of the others of its identity and audience."""

    secrets: tuple[str, ...] = field(repr=False)
    """The token, and its signature in case that the flow splits the token."""
    identity: tuple[bytes, ...]
    """The base64url of the identity, as the payload of its tokens holds it."""
    audience: tuple[bytes, ...]
    encoded: tuple[bytes, ...] = field(repr=False)
    """The base64 of the signature and of `identity`."""
    signs: tuple[bytes, ...] = field(repr=False)
    """The signature and `identity`."""
    reach: int
    """The bytes of the token in its longest spelling."""

    def is_own(self, jwt: bytes) -> bool:
        """Return whether a token is one of the worker's."""
        return _any_in(self.identity, jwt) and (not self.audience or _any_in(self.audience, jwt))


@lru_cache(maxsize=4)
def _own(token: str) -> _Own:
    signature = token.rpartition(".")[2]
    secrets = tuple(secret for secret in (token, signature) if len(secret) >= _MIN_TOKEN_CHARACTERS)
    payload = _payload(token)
    values = (payload.get(name) for name in _IDENTITIES)
    identity = next((v for v in values if isinstance(v, str) and len(v) >= _MIN_IDENTITY_CHARACTERS), "")
    audience = payload.get("aud")
    marks = _in_base64(identity.encode())
    signs = (*(secret.encode("ascii", "replace") for secret in secrets[-1:]), *marks)
    return _Own(
        secrets,
        marks,
        _in_base64(audience.encode()) if isinstance(audience, str) else (),
        tuple(part for sign in signs for part in _in_base64(sign)),
        signs,
        token_spelling.MAX_SPELLED_CHARACTER * len(token),
    )


@lru_cache(maxsize=4)
def _spelled(signs: tuple[bytes, ...]) -> re.Pattern[bytes] | None:
    """Return the expression for the signs in escapes. It takes milliseconds to compile, and few answers need it."""
    return token_spelling.expression_of(signs)


def _payload(token: str) -> dict[str, JsonValue]:
    parts = token.split(".")
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    except (IndexError, ValueError):
        return {}
    return payload if isinstance(payload, dict) else {}


def _in_base64(text: bytes) -> tuple[bytes, ...]:
    """Return what base64 makes of the text after 0, 1 and 2 other bytes, without the characters that those share.

    ASCII letters, digits and `-._:/` never become one of the two characters in which alphabets of base64 differ.
    """
    parts = (
        base64.b64encode(b"\0" * before + text)[(before * 8 + 5) // 6 : (before + len(text)) * 8 // 6]
        for before in range(3)
    )
    return tuple(part for part in parts if len(part) >= _MIN_IDENTITY_CHARACTERS)


def _any_in(parts: tuple[bytes, ...], text: bytes, rest: Rest = no_rest) -> bool:
    for part in parts:
        if part in text:
            return True
        rest()
    return False


def may_repeat(token: str, text: str) -> bool:
    """Return whether the text holds the token or its signature: a quick check, for several texts at a time."""
    return any(secret in text for secret in _own(token).secrets)


def without_token(text: str, token: str) -> str:
    """Return the text without the token."""
    for secret in _own(token).secrets:
        text = text.replace(secret, MASK)
    return text


def without_token_bytes(body: bytes, token: str, rest: Rest = no_rest) -> bytes:
    """Return the body without the worker's tokens: in any character set that their characters allow, and in base64.

    `rest` is called between two searches.
    """
    own = _own(token)
    for codec in _JWTS if b"\0" in body else ("ascii",):
        for secret in own.secrets:
            spelling = secret.encode(codec, "replace")
            if spelling in body:
                body = body.replace(spelling, MASK.encode(codec))
            rest()
    body = _without_own_jwts(body, own, rest)
    if _any_in(own.encoded, body, rest):
        body = _BASE64_RUN.sub(lambda run: _without_token_inside(run[0], own, token, rest), body)
    return body


def _without_own_jwts(body: bytes, own: _Own, rest: Rest) -> bytes:
    wide = b"\0" in body
    if _any_in(own.identity, body.translate(None, b"\0") if wide else body, rest):
        for codec, jwts in _JWTS.items() if wide else (("ascii", _JWTS["ascii"]),):
            body = jwts.sub(partial(_without_own, own=own, mask=MASK.encode(codec)), body)
            rest()
    return body


def _without_own(jwt: re.Match[bytes], own: _Own, mask: bytes) -> bytes:
    return mask if own.is_own(jwt[0].replace(b"\0", b"")) else jwt[0]


def _without_token_inside(run: bytes, own: _Own, token: str, rest: Rest) -> bytes:
    """Return a run of base64 without the tokens inside it. It stays base64."""
    if not _any_in(own.encoded, run, rest):
        return run
    safe = b"-_" if b"-" in run or b"_" in run else None
    text = run.rstrip(b"=")
    for first in range(4):  # a run can begin with characters before its base64
        part = text[first:]
        part = part[: len(part) - (len(part) % 4 == 1)]
        decoded = base64.b64decode(part + b"=" * (-len(part) % 4), safe)
        masked = without_token_bytes(decoded, token, rest)
        if masked != decoded:
            return text[:first] + base64.b64encode(masked, safe)
        if _any_in(own.identity, decoded, rest):  # of another audience
            return run
    return _MASK_BYTES


def without_spelled_token(
    output: JsonValue, encoding: OutputEncoding | None, body: bytes, token: str, rest: Rest = no_rest
) -> JsonValue:
    """Return the output without tokens that escapes spell: those of JSON, URLs and HTML."""
    if encoding == "json":
        # Parsing has replaced the escapes of JSON, but a string can hold further ones.
        text = to_json(output)
        rest()
        masked = _without_spelled(without_token_bytes(text, token, rest), token, rest)
        # Not by the strict parser: two names may have become the same one.
        return output if masked == text else from_json(masked)
    if encoding == "base64":
        masked = _without_spelled(body, token, rest)
        return output if masked == body else base64.b64encode(masked).decode("ascii")
    if not isinstance(output, str):
        return output
    text = output.encode("utf-8", "surrogatepass")
    rest()
    masked = _without_spelled(without_token_bytes(text, token, rest), token, rest)
    return output if masked == text else masked.decode("utf-8", "replace")


def _without_spelled(body: bytes, token: str, rest: Rest) -> bytes:
    """Replace the escapes around a token by the characters, so that it can be masked."""
    if b"\0" in body:  # a wide character set, which a masked body loses
        narrow = body.translate(None, b"\0")
        rest()
        masked = _without_spelled(narrow, token, rest)
        return body if masked == narrow else masked
    own = _own(token)
    pieces: list[bytes] = []
    end = 0
    for first, last in token_spelling.found_in(body, partial(_spelled, own.signs), rest):
        if first < end:
            continue
        start = max(end, first - own.reach)
        pieces.append(body[end:start])
        end = last + own.reach
        pieces.append(without_token_bytes(token_spelling.plain(body[start:end]), token))
    return b"".join((*pieces, body[end:])) if pieces else body
