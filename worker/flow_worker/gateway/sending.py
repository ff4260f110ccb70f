"""Sends the messages of concurrent submissions in groups: one transfer for all that wait, instead of one for each.

A transfer costs the SDK most of the time of a submission. While no other one is under way, a message leaves at once.
Each transfer also flushes the store once, for all its requests, while it is on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from flow_contracts.message import Message
from flow_contracts.servicebus import MessageTooLarge

_MAX_PARALLEL: Final = 4
"""Transfers under way."""
_PATIENCE_SECONDS: Final = 0.008
"""How long messages wait for the transfer under way to end, before another one begins beside it. In Azure a transfer
takes 10 to 20 ms, so that several overlap; one that hangs holds up no others. With 30 ms, submissions and transfers
took turns: 32 callers got 0.53 of the client's rate instead of 0.64."""
_BUSY_COUNT: Final = 8
"""With so many messages waiting or on their way, more are about to come."""
_GATHER_SECONDS: Final = 0.003
"""How long a busy gateway gathers messages for the next transfer. A submission alone never waits."""
_MAX_GROUP: Final = 64
_PROPERTY_BYTES: Final = 1024
"""More than a message adds to a batch beside its body."""
_DEFAULT_GROUP_BYTES: Final = 192 * 1024
"""Below the limit of the tier Standard, 256 KB."""


class GroupTransport(Protocol):
    """Service Bus."""

    async def send(self, queue: str, message: Message) -> None:
        """Send one message. Raises `MessageTooLarge`, `ServiceBusFailure`."""
        ...

    async def send_all(self, queue: str, messages: Sequence[Message]) -> None:
        """Send a batch: the queue accepts all its messages or none. Raises `MessageTooLarge`, `ServiceBusFailure`."""
        ...

    def max_message_bytes(self, queue: str) -> int | None:
        """Return the largest message that the queue takes; None while nothing was sent to it."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    message: Message
    accepted: asyncio.Future[None]


class GroupedSender:
    """Sends to one queue."""

    def __init__(self, transport: GroupTransport, queue: str, flush: Callable[[], Awaitable[None]]) -> None:
        """`flush` makes the records of the requests survive a power cut; without it no message counts as sent."""
        self._transport = transport
        self._queue = queue
        self._flush = flush
        self._waiting: deque[_Waiting] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._pending = 0
        """The messages that wait or are on their way."""

    def max_message_bytes(self, queue: str) -> int | None:
        """See `GroupTransport.max_message_bytes`."""
        return self._transport.max_message_bytes(queue)

    async def send(self, queue: str, message: Message) -> None:
        """Return once the queue accepted the message and the store is flushed.

        Raises `MessageTooLarge`, `ServiceBusFailure` and `TemporarilyUnavailable`. A caller that stops waiting does not
        take the message back: it may be on its way.
        """
        waiting = _Waiting(message, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._pending += 1
        try:
            if self._under_way and len(self._waiting) < _MAX_GROUP:
                self._start_in(_PATIENCE_SECONDS)
            else:
                self._start_soon()
            await waiting.accepted
        finally:
            self._pending -= 1

    def _start_soon(self) -> None:
        if self._pending < _BUSY_COUNT or len(self._waiting) >= _MAX_GROUP:
            self._start()
        elif self._waiting:
            self._start_in(_GATHER_SECONDS)

    def _start_in(self, seconds: float) -> None:
        """Begin a transfer after this time, unless one is due already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._start_when_due)

    def _start(self) -> None:
        if self._waiting and len(self._under_way) < _MAX_PARALLEL:
            task = asyncio.create_task(self._send_and_flush(self._next_group()))
            self._under_way.add(task)
            task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._timer is not None:  # it was for the case that this transfer hangs
            self._timer.cancel()
            self._timer = None
        self._start_soon()

    def _start_when_due(self) -> None:
        self._timer = None
        self._start()
        if self._waiting:
            self._start_in(_PATIENCE_SECONDS)

    def _next_group(self) -> list[_Waiting]:
        largest = self._transport.max_message_bytes(self._queue)
        left = _DEFAULT_GROUP_BYTES if largest is None else largest * 3 // 4
        group = [self._waiting.popleft()]
        left -= _size(group[0])
        while self._waiting and len(group) < _MAX_GROUP and (left := left - _size(self._waiting[0])) >= 0:
            group.append(self._waiting.popleft())
        return group

    async def _send_and_flush(self, group: list[_Waiting]) -> None:
        flushing = asyncio.ensure_future(self._flush())
        try:
            await self._send_group(group, flushing)
        except BaseException:  # the loop closes
            for one in group:
                one.accepted.cancel()
            raise
        finally:
            await asyncio.wait([flushing])
            if not flushing.cancelled():
                flushing.exception()  # each caller has it already

    async def _send_group(self, group: list[_Waiting], flushing: Awaitable[None]) -> None:
        try:
            if len(group) == 1:
                await self._transport.send(self._queue, group[0].message)
            else:
                await self._transport.send_all(self._queue, [one.message for one in group])
            await flushing
        except MessageTooLarge as error:
            if len(group) == 1:
                _fail(group, error)
                return
            for one in group:  # together only: the envelope of a batch takes room, too
                await self._send_group([one], flushing)
        except Exception as error:  # noqa: BLE001 - each caller gets the failure of its group
            _fail(group, error)
        else:
            for one in group:
                if not one.accepted.done():
                    one.accepted.set_result(None)


def _size(waiting: _Waiting) -> int:
    return len(waiting.message.body) + _PROPERTY_BYTES


def _fail(group: list[_Waiting], error: Exception) -> None:
    for one in group:
        if not one.accepted.done():
            one.accepted.set_exception(error)
