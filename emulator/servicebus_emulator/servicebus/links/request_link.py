"""A link on which a client sends requests to `$cbs` or to a `$management` node."""

from __future__ import annotations

from collections.abc import Callable

from servicebus_emulator.amqp import Accepted, Error, Link, MessageReceived, Rejected
from servicebus_emulator.servicebus.access import ConnectionRights
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.errors import MESSAGE_SIZE_EXCEEDED, NOT_ALLOWED, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint
from servicebus_emulator.servicebus.links import cbs, management
from servicebus_emulator.servicebus.links.addresses import Address, Node
from servicebus_emulator.servicebus.links.request_response import Request, Response, encode_response, parse_request
from servicebus_emulator.servicebus.links.response_link import ResponseLink, choose_response_link

_CREDIT = 100


class RequestLink:
    """Handles the requests to one node.

    `rights`: those of the connection. `response_links`: returns the links for the responses.
    """

    def __init__(
        self,
        link: Link,
        address: Address,
        broker: Broker,
        rights: ConnectionRights,
        response_links: Callable[[], list[ResponseLink]],
    ) -> None:
        self._link = link
        self._address = address
        self._broker = broker
        self._rights = rights
        self._response_links = response_links
        link.grant(_CREDIT)

    def received(self, event: MessageReceived) -> None:
        """Handle a request. Reject a request that has no link for its response.

        The link settles the transfer before it handles the request. The Python SDK takes any disposition of its session
        with a matching ID for its own. In this order it cannot take a later disposition for this one.
        """
        self._link.grant(_CREDIT)
        try:
            request, response_link = self._parse(event)
        except ServiceBusError as error:
            self._settle(event, Rejected(Error(error.condition, error.description, {})))
            return
        self._settle(event, Accepted())
        response_link.send(encode_response(request, self._respond(request)))

    def _parse(self, event: MessageReceived) -> tuple[Request, ResponseLink]:
        if event.oversize:
            raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, "The request is too large.")
        request = parse_request(event.payload)
        response_link = choose_response_link(self._response_links(), request.reply_to)
        if response_link is None:
            raise ServiceBusError(NOT_ALLOWED, "There is no link to answer on: attach one that receives from here.")
        return request, response_link

    def _settle(self, event: MessageReceived, outcome: Accepted | Rejected) -> None:
        if not event.settled:
            self._link.session.settle(True, event.delivery_id, event.delivery_id, outcome)

    def _respond(self, request: Request) -> Response:
        if self._address.node is Node.CBS:
            return self._respond_cbs(request)
        try:
            self._rights.require(self._address.path, management.required_right(request))
            self._broker.faults.check(FaultPoint.REQUEST, self._address.entity)
            # Looked up for each request, because the queue may have been deleted since the attach.
            queue = self._broker.find(self._address.entity)
        except ServiceBusError as error:
            return management.error_response(error)
        return management.respond(queue, request)

    def _respond_cbs(self, request: Request) -> Response:
        try:
            self._broker.faults.check(FaultPoint.TOKEN, "")
        except ServiceBusError as error:
            return cbs.error_response(error)
        return cbs.respond(request, self._rights, self._broker.find)
