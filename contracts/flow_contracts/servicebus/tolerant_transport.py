"""Replaces the SDK's decoder of received and peeked messages, for this adapter's clients only.

The SDK decodes a message inside its link. A message that it cannot decode breaks the link: the broker keeps the lock
until it expires, delivers the message again, and delays every message behind it. One sender could so stop a queue.

The SDK takes its transport from the client. This transport adds two functions to each receiving link. The link keeps
its whole work, credit and settlement included, but its decoder gets no bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus._pyamqp.error import AMQPConnectionError, ErrorCondition
from azure.servicebus._pyamqp.message import Message
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.aio._transport._pyamqp_transport_async import PyamqpTransportAsync

from flow_contracts.servicebus.events import log_event
from flow_contracts.servicebus.message_decoder import DecodedMessage, decode_message

_log = logging.getLogger(__name__)

_MORE, _PAYLOAD = 5, 11
"""The places of two fields in the SDK's transfer frame (AMQP 1.0 part 2, 2.7.5; the payload follows the fields)."""

MAX_PAYLOAD_BYTES = 4 << 20
"""The adapter keeps this much of a message, outside sessions. A request may have 1 MiB, a message of Premium 100 MB."""
_NO_LIMIT = 0
"""As the max-message-size of a link (AMQP 1.0 part 2, 2.7.3). The SDK declares 1 MiB: a broker that obeys could deliver
no larger message over such a link, and could not go on to the next one.
"""

_Frame = list[Any]  # the SDK's form of a frame: its fields in the order of AMQP


class DecodedByUs(Message):
    """A message of the SDK with the names of the parts that were left out.

    The application properties are not among its fields. The SDK decodes some of them as ASCII for its tracing, at
    each settlement, even with tracing off: other bytes would make the message impossible to settle.
    """

    undecodable: tuple[str, ...] = ()
    sender_properties: Mapping[str | bytes, Any] | None = None
    """The application properties."""


class EncodedMessage:
    """A peeked message whose decoding waits for its turn: a page of messages may be large."""

    sequence_number: int | None = None
    """The SDK reads this from each message that it peeked, to peek on from there. The adapter says from where."""

    def __init__(self, payload: bytes, receiver: ServiceBusReceiver) -> None:
        self._payload = payload
        self._receiver = receiver

    def decode(self) -> ServiceBusReceivedMessage:
        """Return the message. It raises for no content."""
        return ServiceBusReceivedMessage(decoded_by_us(self._payload), receiver=self._receiver, is_peeked_message=True)


class TolerantTransport(PyamqpTransportAsync):
    """The SDK's transport, whose receiving links decode by `decode_message`."""

    @staticmethod
    def create_receive_client_async(receiver: Any, **kwargs: Any) -> Any:
        """Return the SDK's client of one link, changed so that its links decode by `decode_message`."""
        kwargs["max_message_size"] = _NO_LIMIT
        client: Any = PyamqpTransportAsync.create_receive_client_async(receiver, **kwargs)  # the SDK types little of it
        max_bytes = None if receiver.session else MAX_PAYLOAD_BYTES
        open_link = client._client_ready_async

        async def open_tolerant_link() -> bool:
            before = client._link
            ready: bool = await open_link()
            # The SDK has created a link, which has no credit yet, so no transfer can have come.
            if client._link is not None and client._link is not before:
                Transfers(client._link, max_bytes)
            return ready

        # The SDK itself replaces a method of this object in the same way.
        client._client_ready_async = open_tolerant_link
        close_failed_websocket(client)
        return client

    @staticmethod
    def create_send_client_async(config: Any, **kwargs: Any) -> Any:
        """Return the SDK's client of one link, changed so that it closes a WebSocket that it could not open."""
        client: Any = PyamqpTransportAsync.create_send_client_async(config, **kwargs)
        close_failed_websocket(client)
        return client

    @staticmethod
    async def mgmt_client_request_async(mgmt_client: Any, mgmt_msg: Message, **kwargs: Any) -> Any:
        """Send a request, and let this transport parse its answer; the SDK's own method passes the SDK's transport."""
        parse = kwargs.pop("callback")

        def parse_by_this_transport(*answer: Any, amqp_transport: object) -> Any:
            return parse(*answer, amqp_transport=TolerantTransport)

        return await PyamqpTransportAsync.mgmt_client_request_async(
            mgmt_client, mgmt_msg, callback=parse_by_this_transport, **kwargs
        )

    @staticmethod
    def parse_received_message(message: Message, message_type: type[Any], **kwargs: Any) -> list[Any]:
        """Return the messages of a peek, still encoded."""
        if kwargs.get("is_deferred_message"):
            raise NotImplementedError("The adapter receives no deferred messages.")
        return [
            EncodedMessage(bytes(entry[b"message"]), kwargs["receiver"]) for entry in (message.value or {})[b"messages"]
        ]


def use_tolerant_transport(client: ServiceBusClient) -> None:
    """Let every receiver that the client creates from now on decode by `decode_message`."""
    client._amqp_transport = TolerantTransport


def close_failed_websocket(client: Any) -> None:
    """Let the SDK's client close the HTTP session of a WebSocket that it could not open; otherwise it leaks.

    The client's error then is one of the connection. The SDK takes some for a refused credential. Others quote the
    request to the proxy, with the password in its headers.
    """
    open_client = client.open_async

    async def open_or_close(connection: Any = None) -> None:
        try:
            await open_client(connection)
        except BaseException as error:
            transport = getattr(client._connection, "_transport", None)
            session = getattr(transport, "session", None)
            if session is not None and getattr(transport, "sock", None) is None:
                await session.close()
                client._connection = None
                if (cause := _websocket_cause(error)) is not None:
                    raise AMQPConnectionError(ErrorCondition.SocketError, description=cause) from None
            raise

    client.open_async = open_or_close


def _websocket_cause(error: BaseException) -> str | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, aiohttp.ClientError):
        cause = cause.__cause__
    match cause:
        case aiohttp.ClientHttpProxyError(status=407):
            return "the proxy refuses the connection (status 407); set its user and password in HTTPS_PROXY"
        case aiohttp.ClientHttpProxyError(status=status):
            return f"the proxy refuses the connection (status {status})"
        case aiohttp.WSServerHandshakeError(status=status):
            return f"the server refuses a WebSocket (status {status}); check that no proxy on the way forbids it"
        case aiohttp.ClientError():
            return f"the WebSocket could not be opened: {cause}"
    return None


class Transfers:
    """Collects the bytes of the messages of one link, and decodes them in place of the SDK."""

    def __init__(self, link: Any, max_bytes: int | None) -> None:
        """`max_bytes`: of each message; the rest is dropped, so that the message lacks its body. None: all."""
        self._max_bytes = max_bytes
        self._payload = bytearray()
        self._is_complete = False
        self._transfer: Callable[[_Frame], Awaitable[None]] = link._incoming_transfer
        self._deliver: Callable[[_Frame, Message], Awaitable[object]] = link._on_transfer
        link._incoming_transfer = self.transfer
        link._on_transfer = self.deliver

    async def transfer(self, frame: _Frame) -> None:
        """Take the bytes of one frame; a message may have many. The SDK gets the frame without its bytes."""
        room = None if self._max_bytes is None else self._max_bytes - len(self._payload)
        self._payload += frame[_PAYLOAD][:room]
        self._is_complete = not frame[_MORE]
        await self._transfer([*frame[:_PAYLOAD], memoryview(b"")])

    async def deliver(self, frame: _Frame, message: Message) -> object:
        """Deliver the decoded message in place of the empty one."""
        if not self._is_complete:  # this version of the SDK delivers in another way: its own message is the right one
            return await self._deliver(frame, message)
        payload, self._payload, self._is_complete = bytes(self._payload), bytearray(), False
        return await self._deliver(frame, decoded_by_us(payload))


def decoded_by_us(payload: bytes) -> DecodedByUs:
    """Return the message in the SDK's form. It raises for no content."""
    try:
        decoded = decode_message(payload)
    except Exception as error:  # noqa: BLE001 - an internal error: it must not break the link, which delays all others
        sentence = f"An internal error in the decoder of messages: {type(error).__name__}"
        log_event(_log, logging.ERROR, "servicebus.decoder_failed", sentence)
        decoded = DecodedMessage(Message(), ("message",))
    message = DecodedByUs(*decoded.message._replace(application_properties=None))
    message.sender_properties = decoded.message.application_properties
    message.undecodable = decoded.undecodable
    return message
