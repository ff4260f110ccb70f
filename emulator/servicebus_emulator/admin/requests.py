"""What both halves of the HTTP side need of a request, and how they answer errors."""

from __future__ import annotations

from aiohttp import web

from servicebus_emulator.admin import atom
from servicebus_emulator.servicebus.errors import (
    ARGUMENT_ERROR,
    ENTITY_ALREADY_EXISTS,
    MESSAGE_LOCK_LOST,
    MESSAGE_SIZE_EXCEEDED,
    NOT_FOUND,
    STATUS,
    UNAUTHORIZED,
    ServiceBusError,
)

_SUB_CODES = {NOT_FOUND: "40400", ENTITY_ALREADY_EXISTS: "40900", ARGUMENT_ERROR: "40000"}


class TooLarge(ServiceBusError):
    """The body of a request is larger than it may be."""

    def __init__(self, limit: int) -> None:
        super().__init__(MESSAGE_SIZE_EXCEEDED, f"The body of the request has more than {limit} bytes.")


async def body_of(request: web.Request, limit: int) -> bytes:
    """The whole body. Raises `TooLarge` as soon as it is known to be."""
    body = bytearray()
    if (request.content_length or 0) > limit:
        raise TooLarge(limit)
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise TooLarge(limit)
    return bytes(body)


def refused(error: ServiceBusError) -> web.Response:
    """The answer to what cannot be done."""
    # HTTP has no lock that was lost: what the token names is not there (any more)
    status = 404 if error.condition == MESSAGE_LOCK_LOST else STATUS.get(error.condition, 500)
    code = _SUB_CODES.get(error.condition)
    answer = problem(status, f"SubCode={code}. {error.description}" if code else error.description)
    if error.condition == UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "SharedAccessSignature, Bearer"
    return answer


def problem(status: int, detail: str) -> web.Response:
    """An error's document."""
    document = atom.error(status, detail)
    return web.Response(status=status, text=document, content_type="application/xml", charset="utf-8")


def not_allowed(request: web.Request, allowed: str) -> web.Response:
    """This cannot be done to that."""
    answer = problem(405, f"{request.method} is not possible here; possible: {allowed}.")
    answer.headers["Allow"] = allowed
    return answer
