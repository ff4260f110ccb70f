"""`$cbs`: a client puts its token here before it opens links."""

from __future__ import annotations

from collections.abc import Callable

from servicebus_emulator.amqp import Int
from servicebus_emulator.servicebus.access import ConnectionRights, path_of
from servicebus_emulator.servicebus.errors import STATUS, ServiceBusError
from servicebus_emulator.servicebus.links import addresses
from servicebus_emulator.servicebus.links.addresses import Node
from servicebus_emulator.servicebus.links.request_response import Request, Response


def answer(request: Request, claims: ConnectionRights, require_entity: Callable[[str], object]) -> Response:
    """Take the token, or say what is wrong with it. Its kind is read off its text: Python calls a signature a `jwt`.

    A good token for what is not there (`require_entity` raises `ServiceBusError`) is answered 404, as by the service:
    "Put token failed. status-code: 404, status-description: The messaging entity … could not be found." It looks at
    the token first, so that strangers learn nothing of what there is.
    """
    if request.properties.get("operation") != "put-token":
        return _status(400, "the operation must be put-token")
    audience = request.properties.get("name")
    if not isinstance(audience, str) or not audience:
        return _status(400, "the token's audience is missing: set 'name'")
    if not isinstance(request.body, str):
        return _status(401, "MalformedToken: the token must be a string, as the body's value")
    try:
        claims.put(audience, request.body)
        _require_there(audience, require_entity)
    except ServiceBusError as error:
        return refusal(error)
    return _status(202, "Accepted")


def _require_there(audience: str, require_entity: Callable[[str], object]) -> None:
    address = addresses.parse(path_of(audience))
    if address.entity and address.node in (Node.ENTITY, Node.MANAGEMENT):
        require_entity(address.entity)


def refusal(error: ServiceBusError) -> Response:
    """The answer that says why not."""
    return _status(STATUS.get(error.condition, 401), error.description)


def _status(code: int, description: str) -> Response:
    return Response({"status-code": Int(code), "status-description": description})
