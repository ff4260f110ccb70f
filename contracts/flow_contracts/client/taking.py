"""Takes a peeked message out of a session: a result, or a copy of a result that the client returned before."""

from __future__ import annotations

import time
from collections.abc import Callable

from flow_contracts.message import ReceivedMessage
from flow_contracts.result import FlowResult, InvalidResult, UnsupportedResult
from flow_contracts.servicebus import Delivery, ServiceBusUnavailable, SessionReceiver

_CONSUME_SECONDS = 30.0
_RECEIVE_SECONDS = 5.0


async def take_result(
    session: SessionReceiver, peeked: ReceivedMessage, is_forged: Callable[[ReceivedMessage], bool]
) -> FlowResult:
    """Delete the message of a peeked result, and return the result. Delete the forged messages before it, too.

    Raises `UnsupportedResult`, which leaves the message in the queue, `InvalidResult`, which dead-letters it, and
    `ServiceBusUnavailable`.
    """
    try:
        result = FlowResult.from_message(peeked)
    except UnsupportedResult:
        raise
    except InvalidResult as error:
        await _settle_peeked(session, peeked, is_forged, invalid=str(error))
        raise
    await _settle_peeked(session, peeked, is_forged)
    return result


async def drop_copies(session: SessionReceiver, is_copy: Callable[[ReceivedMessage], bool]) -> None:
    """Delete the messages of the session that are copies. Raises `ServiceBusUnavailable`."""
    while (copy := await session.find(is_copy)) is not None:
        await _settle_peeked(session, copy, is_copy)


async def _settle_peeked(
    session: SessionReceiver,
    peeked: ReceivedMessage,
    is_superfluous: Callable[[ReceivedMessage], bool],
    *,
    invalid: str | None = None,
) -> None:
    """Receive up to the peeked message, settle that message, and delete the superfluous messages before it.

    A peeked message has no lock, so the client cannot settle it. The other messages before it stay locked until then:
    the next receive would return an abandoned message again. Afterwards the client abandons them.

    Raises `ServiceBusUnavailable` if no receive returns the message.
    """
    others: list[Delivery] = []
    give_up_at = time.monotonic() + _CONSUME_SECONDS
    while time.monotonic() < give_up_at:
        delivery = await session.receive(_RECEIVE_SECONDS)
        if delivery is None:
            continue
        if delivery.message.sequence_number != peeked.sequence_number:
            # A deleted message does not come back. So each call gets further through a session that somebody floods.
            if is_superfluous(delivery.message):
                await session.complete(delivery)
            else:
                others.append(delivery)
            continue
        if invalid is not None:
            await session.dead_letter(delivery, "invalid_result", invalid)
        else:
            await session.complete(delivery)
        for other in others:
            await session.abandon(other)
        return
    raise ServiceBusUnavailable(f"a peek found the message, but no receive got it within {_CONSUME_SECONDS:g} s")
