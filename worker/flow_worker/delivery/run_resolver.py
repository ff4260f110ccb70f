"""The sink `settle`: it settles `unknown` results by Dataverse's records of flow runs.

The journal takes the settling result first, by compare-and-swap. The reply queue gets it then, under a message ID that
follows from the request. A worker that is killed in between leaves the delivery to another attempt, which publishes
the journal's result again; duplicate detection drops the second copy.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from flow_contracts.request import ReplyAddress
from flow_contracts.result import SETTLED_BY_FLOW_RUN, FlowError, FlowResult, FlowRun, Status
from flow_contracts.servicebus import ServiceBusFailure
from flow_worker.delivery.port import Attempt, Delivered, Delivery, Postponed, RetryLater, Settlements, Sink
from flow_worker.delivery.run_records import Ambiguous, Ended, Open, RunEnd, RunRecord, RunRecords, judge, wanted
from flow_worker.flows.tracking import tracking_id
from flow_worker.journal import Entry
from flow_worker.masking import masked
from flow_worker.pipeline.outcome import Reply
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

NAME: Final = "settle"
SETTLED_WITHOUT_OUTPUT: Final = "settled_without_output"
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
_MAX_MESSAGE_CHARACTERS: Final = 1000


class Settling(Protocol):
    """The part of the journal that the resolver uses."""

    async def settle(self, message_id: str, result: FlowResult) -> FlowResult | None:
        """See `Journal.settle`."""
        ...

    async def keep_mark(self, key: str, *, note: str = "") -> None:
        """See `Journal.keep_mark`."""
        ...

    async def find(self, message_id: str) -> Entry | None:
        """See `Journal.find`."""
        ...


class Publisher(Protocol):
    """Publishes results to reply queues."""

    async def publish(self, reply: Reply) -> None:
        """Return once the reply queue has accepted the result. Raises `ServiceBusFailure`."""
        ...


@dataclass(frozen=True, slots=True)
class ResolverRules:
    """When the resolver looks for a run, and how long."""

    grace: timedelta
    pause: timedelta
    max_pause: timedelta
    max_age: timedelta
    skew: timedelta
    page_url: str | None = None
    """The page of a run for people, with {run} and perhaps {flow}."""

    def next_time(self, finished: datetime, now: datetime) -> datetime | None:
        """Return the time of the next search, later and later; None after the last one."""
        end = finished + self.max_age
        if now >= end:
            return None
        waited = now - finished - self.grace
        return min(now + min(max(waited / 2, self.pause), self.max_pause), end)

    def page(self, run: RunRecord) -> str | None:
        """Return the URL of a run's page."""
        if self.page_url is None or (run.workflow is None and "{flow}" in self.page_url):
            return None
        return self.page_url.replace("{flow}", run.workflow or "").replace("{run}", run.run_id)


class RunResolver(Sink):
    """Looks for the run of each request whose result is `unknown`, until it finds one that has ended."""

    name = NAME
    needs_reply_target = True

    def __init__(
        self,
        records: RunRecords,
        journal: Settling,
        publisher: Publisher,
        settlements: Settlements,
        rules: ResolverRules,
        *,
        flows: Collection[str],
        workflows: Mapping[str, str],
        now: Callable[[], datetime],
    ) -> None:
        """`flows`: those whose results are settled. `workflows`: the rows of flows in Dataverse, where known."""
        self._records = records
        self._journal = journal
        self._publisher = publisher
        self._settlements = settlements
        self._rules = rules
        self._flows = frozenset(flows)
        self._workflows = workflows
        self._now = now
        self.first_delay_seconds = rules.grace.total_seconds()

    def target_of(self, delivery: Delivery) -> str:
        """See `Sink.target_of`."""
        return self._records.url

    def wants(self, delivery: Delivery) -> bool:
        """See `Sink.wants`."""
        result = delivery.result
        return (
            delivery.state == "ended"
            and delivery.is_owner
            and result is not None
            and result.flow in self._flows
            and _may_be_settled(result)
        )

    async def deliver(self, delivery: Delivery) -> Attempt:
        """See `Sink.deliver`."""
        result = delivery.result
        if result is None:
            return Delivered("the journal has forgotten the result")
        if result.settled_by is None:
            found = await self._resolve(delivery, result)
            if not isinstance(found, FlowResult):
                return found
            result = found
        return await self._publish(delivery, result)

    async def close(self) -> None:
        """See `Sink.close`."""

    async def _resolve(self, delivery: Delivery, result: FlowResult) -> FlowResult | Attempt:
        """Return the settling result that the journal has now, or what the attempt came to without one."""
        search = wanted(
            result,
            tracking_id(result.correlation_id),
            self._rules.skew,
            self._workflows.get(result.flow or ""),
        )
        if search is None or not _may_be_settled(result):
            return Delivered("the result needs no settlement")
        found = await self._records.find(search.tracking_id)
        if isinstance(found, RetryLater):
            return found
        match judge([run for run in found if await self._is_free(run, delivery.message_id)], search):
            case Ended() as ended:
                if not await self._claim(ended.run, delivery.message_id):
                    return self._again(delivery, result, "the record of its run settles another request")
                settling = settling_result(result, ended, self._rules, self._now())
                settled = await self._journal.settle(delivery.message_id, settling)
                return settled or Delivered("the journal has no unknown result of the request")
            case Ambiguous(runs=runs):
                sentence = "Several runs of one tracking ID ended differently; the result of the request stays unknown."
                _note(logging.WARNING, "run_records.ambiguous", sentence, delivery, runs=len(runs))
                return Delivered("several runs ended differently")
            case Open(reason=reason):
                return self._again(delivery, result, reason)

    async def _is_free(self, run: RunRecord, message_id: str) -> bool:
        """Return whether the run settles no other request: any sender can name the correlation ID of another one."""
        mark = await self._journal.find(_mark_of(run))
        return mark is None or mark.fingerprint == message_id

    async def _claim(self, run: RunRecord, message_id: str) -> bool:
        """Return whether the run settles this request, now and for every later attempt."""
        await self._journal.keep_mark(_mark_of(run), note=message_id)
        return await self._is_free(run, message_id)

    def _again(self, delivery: Delivery, result: FlowResult, reason: str) -> Attempt:
        until = self._rules.next_time(result.times.finished or delivery.accepted, self._now())
        if until is not None:
            return Postponed(until)
        sentence = f"The worker looks no further for the run of a request, whose result stays unknown: {reason}."
        _note(logging.INFO, "run_records.gave_up", sentence, delivery)
        return Delivered(reason)

    async def _publish(self, delivery: Delivery, settled: FlowResult) -> Attempt:
        target = delivery.reply
        if target is not None:
            address = ReplyAddress(
                delivery.message_id, delivery.correlation_id, target.session_id, target.queue, target.reply_key
            )
            try:
                await self._publisher.publish(Reply(settled, address, target.queue, variant=target.variant))
            except ServiceBusFailure as error:
                return RetryLater("reply_queue_unavailable", f"the reply queue did not accept the result: {error}")
        await self._settlements.settled(delivery, settled)
        run_id = None if settled.run is None else settled.run.run_id
        sentence = "The record of the flow run settles the unknown result of a request."
        _note(logging.INFO, "run_records.settled", sentence, delivery, status=settled.status.value, run_id=run_id)
        return Delivered()


def settling_result(unknown: FlowResult, ended: Ended, rules: ResolverRules, now: datetime) -> FlowResult:
    """Return the result that settles an `unknown` one by the record of the run."""
    run = ended.run
    tracking = {} if unknown.run is None else unknown.run.tracking
    is_success = ended.end is RunEnd.SUCCEEDED
    changes = {
        "status": Status.SUCCEEDED if is_success else Status.FAILED,
        "output": None,
        "output_type": None,
        "output_encoding": None,
        "http_status": None,
        "error": None if is_success else _error_of(run, ended.end),
        "note": SETTLED_WITHOUT_OUTPUT if is_success else None,
        "run": FlowRun(run_id=run.run_id, tracking=tracking),
        "times": unknown.times.model_copy(update={"finished": now}),
        "settled_by": SETTLED_BY_FLOW_RUN,
        "run_url": rules.page(run),
    }
    return unknown.model_copy(update=changes)


def _error_of(run: RunRecord, end: RunEnd) -> FlowError:
    if end is RunEnd.CANCELLED:
        return FlowError(code="run_cancelled", message="The flow run was cancelled, as its record says.")
    message = "The flow run failed, as its record says."
    if run.error_message is not None:
        # JSON can express a lone surrogate, UTF-8 cannot.
        said = masked(run.error_message).encode("utf-8", "replace").decode()[:_MAX_MESSAGE_CHARACTERS]
        message = f"The flow run failed, as its record says: {said}"
    if run.error_code is not None and _CODE.fullmatch(run.error_code):
        return FlowError(code=run.error_code, message=message)
    return FlowError(code="run_failed", message=message)


def _mark_of(run: RunRecord) -> str:
    return f"flow-run {hashlib.sha256(run.run_id.encode()).hexdigest()}"


def _may_be_settled(result: FlowResult) -> bool:
    return result.status is Status.UNKNOWN and result.attempts > 0


def _note(level: int, event: str, sentence: str, delivery: Delivery, **fields: str | int | None) -> None:
    log(
        _log,
        level,
        event,
        sentence,
        message_id=delivery.message_id,
        correlation_id=delivery.correlation_id,
        flow=delivery.flow,
        **fields,
    )
