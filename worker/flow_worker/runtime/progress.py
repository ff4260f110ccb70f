"""Tells a gateway how far its requests have come, by small messages to the gateway's reply queue.

This is best effort, and must never delay a request or make it fail: a request only leaves a note in a bounded table,
and one task sends the notes. A newer note of a request replaces an older one that was not sent yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from flow_contracts.gateway_replies import RequestProgress
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.keys import LockHeld, always_held
from flow_worker.pipeline.outcome import Continue, Outcome, Reply, reply_of
from flow_worker.runtime.message_lock import set_within
from flow_worker.runtime.ports import MessageSender, OutcomeSender
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_CALL_SECONDS: Final = 0.5
"""A shorter call is over before a person reads that it is under way."""
_MAX_NOTES: Final = 10_000
_MAX_BATCH: Final = 100
_SEND_SECONDS: Final = 5.0
_GATHER_SECONDS: Final = 0.1
_FAILURE_PAUSE_SECONDS: Final = 5.0
_UNREPORTED: Final = frozenset({"request_burst"})
"""The waits that end at once."""

Queues = Mapping[str, str]
"""The reply queue by the request queue's name in lower case, for the queues whose gateways want to know."""


class ProgressReports:
    """Gathers and sends the states of gateways' requests. A `Service` of the supervisor."""

    name = "progress"

    def __init__(
        self,
        sender: MessageSender,
        queues: Queues,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` returns the broker's time."""
        self._sender = sender
        self._queues = dict(queues)
        self._now = now
        self._monotonic = monotonic
        self._notes: OrderedDict[tuple[str, str], RequestProgress] = OrderedDict()
        self._calls: OrderedDict[int, tuple[float, Job]] = OrderedDict()
        self._last_call = 0
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._fails = False
        self._deadline: asyncio.Timeout | None = None

    # --- what the journey of a request leaves here -----------------------------------------------------------------

    @contextmanager
    def calling(self, job: Job) -> Iterator[None]:
        """Note that the flow is called, if the block takes long enough."""
        if not self._is_reported(job):
            yield
            return
        number = self._last_call = self._last_call + 1
        self._calls[number] = (self._monotonic() + _CALL_SECONDS, job)
        self._work.set()
        try:
            yield
        finally:
            self._calls.pop(number, None)

    def waits(self, job: Job, due: datetime) -> None:
        """Note that the continuation is scheduled."""
        if self._is_reported(job) and job.code not in _UNREPORTED:
            self._note(job, "waiting", due, job.code)

    def ended(self, reply: Reply) -> None:
        """Forget the notes of a request that has its result."""
        request = reply.result.replay_of or reply.result.request_message_id
        self._notes.pop((reply.queue, request), None)

    def _is_reported(self, job: Job) -> bool:
        return job.request_queue.lower() in self._queues

    def _note(self, job: Job, state: str, until: datetime | None, code: str | None) -> None:
        request = job.replay_of or job.message_id
        key = (self._queues[job.request_queue.lower()], request)
        self._notes.pop(key, None)  # the newest note is the last one
        # Without validation: a note costs a request microseconds.
        self._notes[key] = RequestProgress.model_construct(
            request=request, state=state, at=self._now(), until=until, code=code, attempts=job.calls
        )
        if len(self._notes) > _MAX_NOTES:
            self._notes.popitem(last=False)
        self._work.set()

    # --- the task that sends ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send the notes until stopped."""
        while not self._stopping.is_set():
            await self._work.wait()
            # A moment, so that the notes of several requests travel in one batch.
            if await set_within(self._stopping, _GATHER_SECONDS):
                break
            self._note_long_calls()
            if not await self._send_some():
                await set_within(self._stopping, _FAILURE_PAUSE_SECONDS)
            if not self._notes and not self._calls:
                self._work.clear()

    def stop(self) -> None:
        """Send no more: the notes of a worker that stops are soon outdated."""
        self._stopping.set()
        self._work.set()

    def interrupt(self) -> None:
        """Do not wait for the batch under way either."""
        self.stop()
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    def _note_long_calls(self) -> None:
        now = self._monotonic()
        while self._calls:
            number, (due, job) = next(iter(self._calls.items()))
            if due > now:
                return  # the calls are in the order of their times
            del self._calls[number]
            self._note(job, "calling", None, None)

    async def _send_some(self) -> bool:
        """Send a batch to each queue. Return whether the queues accepted them."""
        batches: defaultdict[str, list[RequestProgress]] = defaultdict(list)
        for (queue, request), note in list(self._notes.items())[:_MAX_BATCH]:
            batches[queue].append(note)
            del self._notes[queue, request]
        sent = [await self._send(queue, notes) for queue, notes in batches.items()]
        return all(sent)

    async def _send(self, queue: str, notes: Sequence[RequestProgress]) -> bool:
        try:
            async with asyncio.timeout(_SEND_SECONDS) as self._deadline:
                await self._sender.send_all(queue, [note.to_message() for note in notes])
        except Exception as error:  # noqa: BLE001 - even an internal error must not stop the worker for a note
            # A note that came meanwhile is newer.
            kept = {(queue, note.request): note for note in notes if (queue, note.request) not in self._notes}
            self._notes = OrderedDict([*kept.items(), *self._notes.items()][-_MAX_NOTES:])
            if not self._fails:
                sentence = f"The worker cannot tell the gateway how far its requests have come: {error}"
                log(_log, logging.WARNING, "progress.unsent", sentence, queue=queue)
            self._fails = True
            return False
        finally:
            self._deadline = None
        self._fails = False
        return True


class ReportingDispatcher:
    """An `OutcomeSender` that notes the waits of gateways' requests once the continuation queue has accepted them."""

    def __init__(self, dispatcher: OutcomeSender, progress: ProgressReports) -> None:
        self._dispatcher = dispatcher
        self._progress = progress

    async def send(self, outcome: Outcome, *, lock_held: LockHeld = always_held) -> Outcome:
        """See `OutcomeSender.send`."""
        sent = await self._dispatcher.send(outcome, lock_held=lock_held)
        self._note(sent)
        return sent

    async def send_together(self, outcomes: Sequence[tuple[Reply | Continue, LockHeld]]) -> bool:
        """See `OutcomeSender.send_together`."""
        are_sent = await self._dispatcher.send_together(outcomes)
        for outcome, _ in outcomes if are_sent else ():
            self._note(outcome)
        return are_sent

    def _note(self, sent: Outcome) -> None:
        if isinstance(sent, Continue):
            self._progress.waits(sent.continuation, sent.due)
        elif (reply := reply_of(sent)) is not None:
            self._progress.ended(reply)

    async def mark_published(self, outcome: Outcome) -> None:
        """See `OutcomeSender.mark_published`."""
        await self._dispatcher.mark_published(outcome)
