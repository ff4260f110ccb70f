"""The oracle: compares what senders sent, what the reply queue held, and what the flows themselves recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.storm.load import Sent
from tests.faults.storm.replies import Collected

_OUTAGES = frozenset(
    {"identity_unavailable", "keys_unavailable", "dataverse_unavailable", "dataverse_throttled", "journal_unavailable"}
)
"""Ends for want of something else than the flow. Only a request that is out of time may end so."""


@dataclass(slots=True)
class Calls:
    """The calls of one request, by the flow's own record."""

    made: int = 0
    ran: int = 0
    """The calls that the flow acted on; it refuses a throttled one before it acts."""
    answered: int = 0
    last: float = 0.0


@dataclass(slots=True)
class Findings:
    """What did not hold, as one line for each request and kind of finding."""

    lost: list[str] = field(default_factory=list)
    """No result, and no queue holds the request."""
    unfinished: list[str] = field(default_factory=list)
    """No result when the drain was over, but a queue still holds the request."""
    dup: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    low_attempts: int = 0
    """Results with fewer attempts than the flow answered calls."""
    ends: Counter[str] = field(default_factory=Counter)
    """The ends of the requests, by status and code."""

    @property
    def lines(self) -> list[str]:
        """All findings."""
        return [*self.lost, *self.unfinished, *self.dup, *self.double, *self.wrong]


def read_calls(record: Path) -> dict[str, Calls]:
    """Read the flows' record, by correlation ID."""
    calls: dict[str, Calls] = {}
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else ():
        event = json.loads(line)
        of_request = calls.setdefault(event["id"], Calls())
        of_request.last = event["time"]
        if event["event"] == "call":
            of_request.made += 1
            of_request.ran += event["ran"]
        elif event["event"] == "answer":
            of_request.answered += 1
    return calls


def judge(
    sent: Mapping[str, Sent],
    results: Mapping[str, Sequence[Collected]],
    calls: Mapping[str, Calls],
    *,
    disrupted: Collection[tuple[float, float]],
    queued: Collection[str],
) -> Findings:
    """Return everything that did not hold.

    `disrupted`: the times at which a call may have lost its worker. `queued`: the correlation IDs of the messages that
    wait in a queue.
    """
    findings = Findings()
    for request in sent.values():
        if request.id not in results and request.correlation_id in queued:
            findings.unfinished.append(f"{request.id} ({request.kind.name}, {request.queue}): no result yet")
            continue
        _judge(request, results.get(request.id, ()), calls.get(request.correlation_id, Calls()), disrupted, findings)
    for strange in results.keys() - sent.keys():
        findings.wrong.append(f"{strange}: a result for a request that nobody sent")
    return findings


def _judge(
    request: Sent,
    results: Sequence[Collected],
    calls: Calls,
    disrupted: Collection[tuple[float, float]],
    findings: Findings,
) -> None:
    name = f"{request.id} ({request.kind.name}, {request.queue})"
    if not request.kind.repeatable and calls.ran > 1:
        findings.double.append(f"{name}: the flow ran {calls.ran} times")
    if not results:
        if request.accepted is not None:
            findings.lost.append(f"{name}: no result; the flow saw {calls.made} calls")
        return
    if len(results) > 1:
        ends = ", ".join(f"{result.status} {result.code or ''} at {result.enqueued:.3f}" for result in results)
        findings.dup.append(f"{name}: {len(results)} results: {ends}")
    for result in results:
        findings.ends[f"{request.kind.name}: {result.status} {result.code or ''}".strip()] += 1
        findings.low_attempts += result.attempts < calls.answered and result.status != "unknown"
        if (fault := _wrong(request, result, calls, disrupted)) is not None:
            end = f"{result.status} {result.code or ''} after {result.attempts} attempts"
            findings.wrong.append(f"{name}: {end}; {fault} ({calls.made} calls, {calls.ran} runs)")


def _wrong(request: Sent, result: Collected, calls: Calls, disrupted: Collection[tuple[float, float]]) -> str | None:
    """Return why a result is not the truth about its request; None if it may be."""
    kind = request.kind
    if kind.refused:
        if calls.made:
            return "a flow was called for a sender who may not call it"
        # The broker itself ends a request that it delivered too often, and the worker need not prove its sender then.
        return None if result.status == "refused" or result.code == "deliveries_exceeded" else "it must be refused"
    match result.status:
        case "refused":
            return "its sender may call the flow"
        case "expired":
            if kind.time_to_live is None:
                return "it has no time to live"
            return "the flow was called" if calls.made else None
        case "succeeded":
            return None if calls.ran else "the flow did not run"
        case "unknown":
            return _wrong_unknown(request, result, calls, disrupted)
        case _:
            return _wrong_failure(request, result, calls)


def _wrong_unknown(
    request: Sent, result: Collected, calls: Calls, disrupted: Collection[tuple[float, float]]
) -> str | None:
    if result.code == "journal_unavailable" and request.kind.flow != "hasty":
        return "it had time to wait for the journal"
    if calls.made or any(begin <= result.enqueued and end >= request.begun for begin, end in disrupted):
        return None
    return "no call can have gone out"


def _wrong_failure(request: Sent, result: Collected, calls: Calls) -> str | None:
    kind = request.kind
    if result.retryable and calls.ran and not kind.repeatable:
        return "the flow ran, and the result says that it may be called again"
    if result.attempts == 0 and calls.made:
        return "the flow was called"
    if result.code in _OUTAGES and kind.flow != "hasty":
        return "it had time to wait for the end of the outage"
    return None
