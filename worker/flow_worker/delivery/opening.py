"""Opens the deliveries of requests: `pending` once a request is admitted, `ended` once its reply is published.

Nothing here delays a request by more than one write to the outbox, and no failure here reaches the request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from flow_contracts.result import FlowResult
from flow_worker.access.principal import Principal
from flow_worker.delivery import owed as records
from flow_worker.delivery.outbox import DeliveryOutbox, Held
from flow_worker.delivery.owed import Owed
from flow_worker.delivery.port import Asker, Delivery, DeliveryState, Sink
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.outcome import Reply
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_MAX_UNWRITTEN = 10_000
_MAX_RECENT = 10_000
_WRITE_SECONDS = 1.0
"""The longest time for which a request waits for the outbox."""
_CLOSED_SECONDS = 5.0
"""The time after a failure in which no request waits for the outbox."""
_REPEATED = 100
"""Records of one attempt to write what could not be written before."""


class Routes:
    """Knows the sinks of a request by its request queue and its flow."""

    def __init__(
        self, named: Callable[[str, str], Sequence[str]], sinks: Iterable[Sink], always: Sequence[Sink] = ()
    ) -> None:
        """`named` returns the names in the settings for a queue and a flow. `always`: the worker's own sinks."""
        self._named = named
        self._sinks = {sink.name: sink for sink in sinks}
        self.always = tuple(always)
        self._known: dict[tuple[str, str], tuple[Sink, ...]] = {}

    def sinks(self, queue: str, flow: str) -> tuple[Sink, ...]:
        """Return the sinks of a request."""
        key = (queue.lower(), flow)
        known = self._known.get(key)
        if known is None:
            found = (self._sinks[name] for name in self._named(*key) if name in self._sinks)
            known = (*found, *self.always)
            if len(self._known) < _MAX_RECENT:  # a sender may name any flow
                self._known[key] = known
        return known


class DeliveryOpener:
    """Opens deliveries, and repeats the writes that failed. See `pipeline.ports.Deliveries` and `port.Settlements`."""

    def __init__(
        self,
        outbox: DeliveryOutbox,
        now: Callable[[], datetime],
        routes: Routes | None = None,
        *,
        offer: Callable[[Iterable[Held]], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`offer` lets the runner attempt the deliveries at once."""
        self._monotonic = monotonic
        self._closed_until = float("-inf")
        self._outbox = outbox
        self.routes = routes or Routes(lambda *_: (), ())
        self._now = now
        self.offer = offer
        self._admitted: OrderedDict[str, None] = OrderedDict()
        """The origins of the latest requests whose `pending` this process has opened."""
        self._unwritten: OrderedDict[str, Owed] = OrderedDict()

    async def admitted(self, job: Job) -> None:
        """Open `pending`, unless a call has gone out already or the deliveries are open."""
        if job.kind != "call" or job.calls or job.principal is None or job.origin in self._admitted:
            return
        if await self._open(job, job.principal, "pending", None):
            self._admitted[job.origin] = None
            if len(self._admitted) > _MAX_RECENT:
                self._admitted.popitem(last=False)

    async def published(self, reply: Reply) -> None:
        """Open `ended` for a request of a proven sender."""
        job = reply.job
        if job is None or job.principal is None or reply.is_unproven or reply.of_stranger:
            return
        await self._open(job, job.principal, "ended", reply)

    async def settled(self, delivery: Delivery, result: FlowResult) -> None:
        """See `port.Settlements.settled`."""
        own = await self._outbox.find(records.key_of(delivery.sink, delivery.request_id, delivery.asker))
        if own is None or own.is_replayed:
            return  # another worker has taken the delivery over, and does the same; or the sinks have a newer result
        sinks = self.routes.sinks(delivery.request_queue, delivery.flow or "")
        record = replace(
            own,
            state="settled",
            result=records.embedded(result),
            is_owner=True,
            reply=None,
            opened=self._now(),
            expires=self._now() + self._outbox.retention,
            generation=0,
            attempts=0,
            trouble=None,
            lease=None,
            lease_until=None,
        )
        await self._open_wanted(record, [sink for sink in sinks if sink.name != delivery.sink])

    async def repeat(self) -> None:
        """Write what could not be written before. Raises `TemporarilyUnavailable`."""
        while self._unwritten:
            some = list(self._unwritten.values())[:_REPEATED]
            self.offer(await self._outbox.open(some))
            for owed in some:
                if self._unwritten.get(owed.key) is owed:
                    del self._unwritten[owed.key]

    # --- records ---------------------------------------------------------------------------------------------------

    async def _open_wanted(self, record: Owed, sinks: Iterable[Sink]) -> None:
        wanted = [owed for sink in sinks if (owed := self._for_sink(record, sink, record.result)) is not None]
        if wanted:
            self.offer(await self._outbox.open(wanted))

    async def _open(self, job: Job, principal: Principal, state: DeliveryState, reply: Reply | None) -> bool:
        """Open the deliveries of a request, and return whether that succeeded; repeat the write of an end later."""
        sinks = self.routes.sinks(job.request_queue, job.flow)
        if not sinks:
            return True
        wanted: list[Owed] = []
        try:
            wanted = self._of_job(job, principal, sinks, state, reply)
            await self._write(wanted)
            if job.replay_of is not None and (reply is None or _is_owner(job, reply)):
                await self._supersede(job.replay_of, _asker(principal))
        except (TemporarilyUnavailable, TimeoutError) as error:
            for owed in wanted if reply is not None else ():
                self._keep(owed, error)
            return False
        except Exception:  # noqa: BLE001 - an internal error of a sink must not reach the request
            sentence = "An internal error kept the worker from opening a delivery."
            log(_log, logging.ERROR, "delivery.internal_error", sentence, message_id=job.message_id)
            return False
        return True

    async def _supersede(self, request_id: str, asker: Asker) -> None:
        """Keep a late settlement of the original from replacing what the sinks have of its replay."""
        async with asyncio.timeout(_WRITE_SECONDS):
            for sink in self.routes.always:
                await self._outbox.supersede(records.key_of(sink.name, request_id, asker), request_id)

    async def _write(self, wanted: Sequence[Owed]) -> None:
        """Write the records, within a second. While the outbox does not work, most requests do not wait for it."""
        if not wanted:
            return
        if self._monotonic() < self._closed_until:
            raise TemporarilyUnavailable("journal_unavailable", "the outbox does not work")
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                held = await self._outbox.open(wanted)
        except (TemporarilyUnavailable, TimeoutError) as error:
            self._closed_until = self._monotonic() + _CLOSED_SECONDS
            text = str(error) or f"the outbox did not answer within {_WRITE_SECONDS:g} s"
            raise TemporarilyUnavailable("journal_unavailable", text) from error
        self.offer(held)

    def _keep(self, owed: Owed, error: Exception) -> None:
        if not self._unwritten:
            sentence = f"The worker cannot open a delivery, and tries again; replies are not affected: {error}"
            log(_log, logging.WARNING, "outbox.write_failed", sentence, message_id=owed.message_id, sink=owed.sink)
        waiting = self._unwritten.get(owed.key)
        # A refusal of a second request under the same ID must not take the place of the first one's result.
        self._unwritten[owed.key] = owed if waiting is None else records.opened(waiting, owed)
        if len(self._unwritten) > _MAX_UNWRITTEN:
            # If the record of `pending` is in the outbox, a later look into the journal finds the result.
            self._unwritten.popitem(last=False)

    def _of_job(
        self, job: Job, principal: Principal, sinks: Iterable[Sink], state: DeliveryState, reply: Reply | None
    ) -> list[Owed]:
        now = self._now()
        result = None if reply is None else reply.result
        is_owner = reply is not None and _is_owner(job, reply)
        record = Owed(
            sink="",
            message_id=job.message_id,
            correlation_id=job.correlation_id,
            flow=job.flow if result is None else result.flow,
            request_queue=job.request_queue,
            asker=_asker(principal),
            fingerprint=job.fingerprint,
            accepted=job.accepted,
            since=job.tried_since,
            replay_of=job.replay_of,
            is_owner=is_owner,
            state=state,
            result=result and records.embedded(result),
            reply=None if reply is None else _reply(reply),
            opened=now,
            expires=now + self._outbox.retention,
            due=now,
        )
        return [owed for sink in sinks if (owed := self._for_sink(record, sink, result)) is not None]

    def _for_sink(self, record: Owed, sink: Sink, result: FlowResult | None) -> Owed | None:
        due = record.opened + timedelta(seconds=sink.first_delay_seconds)
        reply = record.reply if sink.needs_reply_target else None
        owed = replace(record, sink=sink.name, due=due, reply=reply)
        return owed if sink.wants(owed.delivery(result)) else None


def _is_owner(job: Job, reply: Reply) -> bool:
    return reply.journalled is not None and reply.journalled.message_id == job.message_id


def _asker(principal: Principal) -> Asker:
    if principal.on_behalf_of is not None:
        return Asker(principal.tenant, principal.on_behalf_of)
    return Asker(principal.tenant, principal.oid or None, None if principal.oid else principal.system_user)


def _reply(reply: Reply) -> records.StoredReply:
    key = reply.address.reply_key
    return records.StoredReply(
        reply.queue, reply.address.session_id, reply.variant, None if key is None else key.get_secret_value()
    )


def named_by(
    queues: Mapping[str, Sequence[str]], flows: Mapping[str, Sequence[str] | None]
) -> Callable[[str, str], Sequence[str]]:
    """Return the names of the sinks of a queue, in lower case, and a flow: the flow's list replaces the queue's."""

    def named(queue: str, flow: str) -> Sequence[str]:
        of_flow = flows.get(flow)
        return queues.get(queue, ()) if of_flow is None else of_flow

    return named
