"""`$cbs`: a client puts its token here before it opens links."""

from __future__ import annotations

from emulator.amqp import Int
from emulator.servicebus.access import Claims
from emulator.servicebus.errors import STATUS, ServiceBusError
from emulator.servicebus.requests import Request, Response


def answer(request: Request, claims: Claims) -> Response:
    """Take the token, or say what is wrong with it. Its kind is read off its text: Python calls a signature a `jwt`."""
    if request.properties.get("operation") != "put-token":
        return _status(400, "the operation must be put-token")
    audience = request.properties.get("name")
    if not isinstance(audience, str) or not audience:
        return _status(400, "the token's audience is missing: set 'name'")
    if not isinstance(request.body, str):
        return _status(401, "MalformedToken: the token must be a string, as the body's value")
    try:
        claims.put(audience, request.body)
    except ServiceBusError as error:
        return refusal(error)
    return _status(202, "Accepted")


def refusal(error: ServiceBusError) -> Response:
    """The answer that says why not."""
    return _status(STATUS.get(error.condition, 401), error.description)


def _status(code: int, description: str) -> Response:
    return Response({"status-code": Int(code), "status-description": description})
