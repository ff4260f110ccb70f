"""The `$cbs` node: a client puts a token here before it attaches links.

Source: Microsoft Learn, "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide", "Claims-based authorization".
"""

from __future__ import annotations

from collections.abc import Callable

from servicebus_emulator.amqp import Int
from servicebus_emulator.servicebus.access import ConnectionRights, path_of
from servicebus_emulator.servicebus.errors import STATUS, ServiceBusError
from servicebus_emulator.servicebus.links.addresses import Node, parse_address
from servicebus_emulator.servicebus.links.request_response import Request, Response

_UNAUTHORIZED_STATUS = 401


def respond(request: Request, rights: ConnectionRights, require_entity: Callable[[str], object]) -> Response:
    """Store the token of a put-token request in the connection's rights.

    `require_entity` raises `ServiceBusError` if there is no such entity. A valid token for a missing entity gets status
    404 with the service's own text, "Put token failed. …". The validation comes first, so that a client without a key
    cannot learn the names of entities.
    """
    if request.properties.get("operation") != "put-token":
        return _response(400, "the operation must be put-token")
    audience = request.properties.get("name")
    if not isinstance(audience, str) or not audience:
        return _response(400, "the token's audience is missing: set 'name'")
    if not isinstance(request.body, str):
        return _response(_UNAUTHORIZED_STATUS, "MalformedToken: the token must be a string, as the body's value")
    try:
        rights.put_token(audience, request.body)
        _require_existing(audience, require_entity)
    except ServiceBusError as error:
        return error_response(error)
    return _response(202, "Accepted")


def _require_existing(audience: str, require_entity: Callable[[str], object]) -> None:
    address = parse_address(path_of(audience))
    if address.entity and address.node in (Node.ENTITY, Node.MANAGEMENT):
        require_entity(address.entity)


def error_response(error: ServiceBusError) -> Response:
    """Return the response that reports an error."""
    return _response(STATUS.get(error.condition, _UNAUTHORIZED_STATUS), error.description)


def _response(code: int, description: str) -> Response:
    # `$cbs` writes its keys with hyphens, `$management` writes them in camel case.
    return Response({"status-code": Int(code), "status-description": description})
