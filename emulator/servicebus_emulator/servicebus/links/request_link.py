"""A link on which a client asks `$cbs` or a `$management` node."""

from __future__ import annotations

from collections.abc import Callable

from servicebus_emulator.amqp import Accepted, Error, Link, MessageReceived, Rejected
from servicebus_emulator.servicebus.access import ConnectionRights
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.errors import MESSAGE_SIZE_EXCEEDED, NOT_ALLOWED, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint
from servicebus_emulator.servicebus.links import cbs, management, request_response
from servicebus_emulator.servicebus.links.addresses import Address, Node
from servicebus_emulator.servicebus.links.request_response import Request, Response
from servicebus_emulator.servicebus.links.response_link import ResponseLink, choose

_CREDIT = 100


class RequestLink:
    """`replies` gives the links answers may go out on; `claims` are the connection's."""

    def __init__(
        self,
        link: Link,
        address: Address,
        broker: Broker,
        claims: ConnectionRights,
        replies: Callable[[], list[ResponseLink]],
    ) -> None:
        self._link = link
        self._address = address
        self._broker = broker
        self._claims = claims
        self._replies = replies
        link.grant(_CREDIT)

    def received(self, event: MessageReceived) -> None:
        """A request: accept the transfer first, answer at once. What cannot be answered is rejected."""
        self._link.grant(_CREDIT)
        try:
            request, reply_link = self._read(event)
        except ServiceBusError as error:
            self._settle(event, Rejected(Error(error.condition, error.description, {})))
            return
        self._settle(event, Accepted())
        reply_link.send(request_response.write(request, self._answer(request)))

    def _read(self, event: MessageReceived) -> tuple[Request, ResponseLink]:
        if event.oversize:
            raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, "The request is too large.")
        request = request_response.read(event.payload)
        reply_link = choose(self._replies(), request.reply_to)
        if reply_link is None:
            raise ServiceBusError(NOT_ALLOWED, "There is no link to answer on: attach one that receives from here.")
        return request, reply_link

    def _settle(self, event: MessageReceived, state: Accepted | Rejected) -> None:
        if not event.settled:
            self._link.session.settle(True, event.delivery_id, event.delivery_id, state)

    def _answer(self, request: Request) -> Response:
        if self._address.node is Node.CBS:
            return self._take_token(request)
        try:
            self._claims.require(self._address.path, management.right(request))
            self._broker.faults.check(FaultPoint.REQUEST, self._address.entity)
            queue = self._broker.find(self._address.entity)  # it may be gone since the link was attached
        except ServiceBusError as error:
            return management.refusal(error)
        return management.answer(queue, request)

    def _take_token(self, request: Request) -> Response:
        try:
            self._broker.faults.check(FaultPoint.TOKEN, "")
        except ServiceBusError as error:
            return cbs.refusal(error)
        return cbs.answer(request, self._claims, self._broker.find)
