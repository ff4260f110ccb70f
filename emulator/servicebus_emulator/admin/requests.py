"""Request bodies and error responses, shared by administration and data plane."""

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


class BodyTooLarge(ServiceBusError):
    """The body of a request exceeds its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(MESSAGE_SIZE_EXCEEDED, f"The body of the request has more than {limit} bytes.")


async def read_body(request: web.Request, limit: int) -> bytes:
    """Return the body. Raises `BodyTooLarge` as soon as it exceeds `limit` bytes, before the rest is read."""
    body = bytearray()
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(limit)
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(limit)
    return bytes(body)


def error_response(error: ServiceBusError) -> web.Response:
    """Return the response for a refused request."""
    # REST has no status for a lost lock: the message under this lock token is not found.
    status = 404 if error.condition == MESSAGE_LOCK_LOST else STATUS.get(error.condition, 500)
    code = _SUB_CODES.get(error.condition)
    response = status_response(status, f"SubCode={code}. {error.description}" if code else error.description)
    if error.condition == UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "SharedAccessSignature, Bearer"
    return response


def status_response(status: int, detail: str) -> web.Response:
    """Return an error response with the service's error document."""
    document = atom.error_document(status, detail)
    return web.Response(status=status, text=document, content_type="application/xml", charset="utf-8")


def method_not_allowed(request: web.Request, allowed: str) -> web.Response:
    """Return the response for a method that the path does not support. `allowed` lists the supported methods."""
    response = status_response(405, f"{request.method} is not possible here; possible: {allowed}.")
    response.headers["Allow"] = allowed
    return response
