"""Receives the messages that the emulated Dataverse puts on a queue, with the real azure-servicebus."""

from __future__ import annotations

from azure.servicebus.aio import ServiceBusClient

from flow_contracts.message import Message

QUEUE = "dataverse-requests"


async def received(connection_string: str, queue: str = QUEUE, *, seconds: float = 10) -> Message:
    """Receive and complete the next message. Raise `ValueError` if none arrives."""
    async with (
        ServiceBusClient.from_connection_string(connection_string) as bus,
        bus.get_queue_receiver(queue) as receiver,
    ):
        (message,) = await receiver.receive_messages(max_wait_time=seconds)
        await receiver.complete_message(message)
        return Message(
            body=b"".join(message.body),
            content_type=message.content_type,
            message_id=message.message_id,
            reply_to=message.reply_to,
            application_properties={
                _text(name): _text(value) for name, value in (message.application_properties or {}).items()
            },
        )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
