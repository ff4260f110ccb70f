"""Reads the header fields and the query parameters of requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from aiohttp import web
from pydantic import SecretStr

from flow_contracts.trace_context import parse_traceparent
from flow_worker.errors import Refused
from flow_worker.gateway.problems import Problem, of_refusal

MAX_KEY_CHARACTERS: Final = 255

_QUOTED: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
"""A string of structured fields (RFC 9651, section 3.3.3)."""
_BARE: Final = re.compile(r"[\x21\x23-\x7e][\x20-\x7e]*")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_PART: Final = re.compile(r'"(?:[^"\\]|\\.?)*"?|[^",;]+|[,;]')
"""A part of a list: a quoted string, whose commas separate nothing, other text, or a separator. It fails nowhere."""
_MAX_ELEMENTS: Final = 16
_MAX_TOKEN_CHARACTERS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long a request waits for its result, and what the response says of it."""

    seconds: int = 0
    applied: tuple[str, ...] = ()
    """The preferences that the gateway applies, apart from `respond-async`."""
    is_async_preferred: bool = False

    def headers(self, *, is_pending: bool) -> dict[str, str]:
        """Return `Preference-Applied`, if the request had preferences that the gateway applied."""
        names = (*(("respond-async",) if is_pending and self.is_async_preferred else ()), *self.applied)
        return {"Preference-Applied": ", ".join(names)} if names else {}


def bearer_token(request: web.Request) -> SecretStr:
    """Return the access token. Raises `Problem` (401)."""
    fields = request.headers.getall("Authorization", [])
    if len(fields) > 1:
        raise of_refusal(Refused("claim_invalid", "The request has several header fields 'Authorization'; send one."))
    scheme, _, token = (fields[0] if fields else "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        sentence = "Send an access token for this API in the header field 'Authorization: Bearer …'."
        raise of_refusal(Refused("claim_missing", sentence))
    if len(token) > _MAX_TOKEN_CHARACTERS:
        raise of_refusal(Refused("claim_invalid", "The token is too long to be an access token."))
    return SecretStr(token.strip())


def idempotency_key(request: web.Request) -> str | None:
    """Return the idempotency key, with or without quotes in the header; None without one. Raises `Problem` (400)."""
    text = _single(request, "Idempotency-Key")
    if text is None:
        return None
    quoted = _QUOTED.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not key or len(key) > MAX_KEY_CHARACTERS or not (quoted or _BARE.fullmatch(text)):
        raise Problem(
            "malformed_request",
            f"The header field 'Idempotency-Key' must be a string of 1 to {MAX_KEY_CHARACTERS} printable ASCII "
            'characters in double quotes, such as "8e03978e-40d5-43dd-bc93-6894a57f9324".',
        )
    return key


def own_url(request: web.Request) -> str:
    """Return the gateway's URL as the caller writes it. A malformed `Host` counts as none.

    Otherwise the caller could choose any part of the URLs in the response, and no JSON document holds every byte.
    """
    host = request.host
    if _HOST.fullmatch(host) is None:
        address = None if request.transport is None else request.transport.get_extra_info("sockname")
        name, port = address[:2] if address else ("localhost", 80)
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return f"{request.scheme}://{host}"


def on_behalf_of(request: web.Request) -> str | None:
    """Return the user that the caller names. Raises `Problem` (400) for an empty or a repeated field."""
    text = _single(request, "On-Behalf-Of")
    if text == "":
        raise Problem("on_behalf_of_invalid", "The header field 'On-Behalf-Of' must be the user's Entra object ID.")
    return text


def traceparent(request: web.Request) -> str | None:
    """Return the trace context; None if there is none of the right form (W3C Trace Context: start a new trace)."""
    fields = request.headers.getall("traceparent", [])
    text = fields[0].strip() if len(fields) == 1 else ""
    return parse_traceparent(text)


def waiting(request: web.Request, max_seconds: int, *, by_preference: bool) -> Waiting:
    """Return how long the request waits: the query parameter before the preference. Raises `Problem` (400).

    A preference with a wrong value is ignored (RFC 7240, section 2); a longer one counts as `max_seconds`.
    """
    preferences = _preferences(request) if by_preference else {}
    is_async = "respond-async" in preferences
    values = request.query.getall("wait", [])
    if values:
        if len(values) > 1 or not _SECONDS.fullmatch(values[0]) or int(values[0]) > max_seconds:
            raise Problem("malformed_request", f"The parameter 'wait' must be a whole number from 0 to {max_seconds}.")
        return Waiting(int(values[0]), (), is_async)
    wanted = preferences.get("wait", "")
    if not _SECONDS.fullmatch(wanted):
        return Waiting(0, (), is_async)
    seconds = min(int(wanted), max_seconds)
    return Waiting(seconds, (f"wait={seconds}",), is_async)


def until_settled(request: web.Request) -> bool:
    """Return whether the caller waits until an `unknown` result is settled. Raises `Problem` (400)."""
    values = request.query.getall("settled", ["false"])
    if len(values) > 1 or values[0] not in ("true", "false"):
        raise Problem("malformed_request", "The parameter 'settled' must be 'true' or 'false'.")
    return values[0] == "true"


def require_json(request: web.Request) -> None:
    """Require a body in JSON and UTF-8, without a content coding. Raises `Problem` (415)."""
    media_type = request.content_type.lower()
    charset = (request.charset or "utf-8").lower().replace("_", "-")
    kind, _, name = media_type.partition("/")
    is_json = kind == "application" and (name == "json" or name.endswith("+json"))
    if not is_json or charset not in ("utf-8", "utf8", "us-ascii"):
        sentence = "Send the input as JSON in UTF-8, with 'Content-Type: application/json'."
        raise Problem("unsupported_media_type", sentence)


def require_no_coding(request: web.Request) -> None:
    """Require a body without a content coding: a small one could become huge. Raises `Problem` (415)."""
    if _tokens(request, "Content-Encoding") - {"identity"}:
        raise Problem("unsupported_media_type", "Send the input without 'Content-Encoding'.")
    # aiohttp decodes the last coding, which must be this one, and passes on what the others have made of the body.
    if _tokens(request, "Transfer-Encoding") - {"chunked"}:
        raise Problem("unsupported_media_type", "Send the input without other codings in 'Transfer-Encoding'.")


def _single(request: web.Request, name: str) -> str | None:
    fields = request.headers.getall(name, [])
    if len(fields) > 1:
        raise Problem("malformed_request", f"The request has several header fields '{name}'; send one.")
    return fields[0].strip() if fields else None


def _preferences(request: web.Request) -> dict[str, str]:
    """Return the preferences by name; the first of two with one name counts (RFC 7240, section 2)."""
    found: dict[str, str] = {}
    for field in request.headers.getall("Prefer", [])[:8]:
        for element in islice(_elements(field), _MAX_ELEMENTS):
            name, _, value = element.partition("=")
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


def _elements(field: str) -> Iterator[str]:
    """Yield the elements of a list, without their parameters."""
    element, is_parameter = "", False
    for part in _PART.finditer(field):
        if part[0] == ",":
            yield element
            element, is_parameter = "", False
        elif part[0] == ";":
            is_parameter = True
        elif not is_parameter:
            element += part[0]
    yield element


def _tokens(request: web.Request, name: str) -> set[str]:
    """Return the elements of a list in header fields, in lower case."""
    elements = ",".join(request.headers.getall(name, [])).lower().split(",")
    return {element.strip() for element in elements} - {""}
