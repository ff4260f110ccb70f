"""What the records of flow runs say about a request without an answer, and what the resolver makes of it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from flow_contracts.result import SETTLED_BY_FLOW_RUN, FlowResult, FlowRun, Status
from flow_worker.delivery.port import Delivered, Postponed, RetryLater
from flow_worker.delivery.run_records import path_of
from flow_worker.flows.tracking import tracking_id
from flow_worker.journal import Entry
from flow_worker.journal.transitions import RetentionRules, settle
from tests.support.run_records import CALLED, FINISHED, RULES, WORKFLOW, Organization, Stage, delivery, row, unknown

DAY = timedelta(days=1)


@dataclass
class Journal:
    """The entries of requests, and marks."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def conclude(self, result: FlowResult) -> None:
        key = result.request_message_id
        self.entries[key] = Entry(key, "f", "o", "concluded", 1, FINISHED + DAY, result=result)

    async def settle(self, message_id: str, result: FlowResult) -> FlowResult | None:
        entry = settle(self.entries.get(message_id), result, FINISHED, RetentionRules(DAY, DAY))
        if entry is None:
            return None
        self.entries[message_id] = entry
        return entry.settled

    async def keep_mark(self, key: str, *, note: str = "") -> None:
        self.entries.setdefault(key, Entry(key, note, "", "released", 0, FINISHED + DAY))

    async def find(self, message_id: str) -> Entry | None:
        return self.entries.get(message_id)


def stage(*rows: dict[str, Any], result: FlowResult | None = None, **changes: Any) -> Stage:
    journal = Journal()
    journal.conclude(result or unknown())
    return Stage(journal, Organization(list(rows)), **changes)


def published(stage: Stage) -> FlowResult:
    (result,) = stage.queue.published.values()
    return result


# --- found -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["Succeeded", "Success", "SUCCEEDED", "success", " succeeded "])
async def test_a_run_that_succeeded_settles_the_request(status: str) -> None:
    run = stage(row(status=status))
    assert await run.resolver().deliver(delivery(unknown())) == Delivered()
    result = published(run)
    assert (result.status, result.error, result.output) == (Status.SUCCEEDED, None, None)
    assert (result.note, result.settled_by) == ("settled_without_output", SETTLED_BY_FLOW_RUN)
    assert result.run is not None
    assert (result.run.run_id, result.attempts) == ("08585", 1)
    assert result.run_url == f"https://make.powerautomate.com/environments/E/flows/{WORKFLOW}/runs/08585"
    assert (result.times.started, result.times.finished) == (CALLED, run.now)
    assert run.sinks.opened == ["m-1"]


@pytest.mark.parametrize("status", ["Failed", "failure", "FAILED"])
@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("ActionFailed", "An action failed. Bearer abcdef1234567890abcdef", "ActionFailed"),
        (None, None, "run_failed"),
        ("not a code\n", "x" * 5000, "run_failed"),
        (7, {"no": "text"}, "run_failed"),
    ],
)
async def test_a_run_that_failed_settles_the_request_with_its_error(
    status: str, code: object, message: object, expected: str
) -> None:
    run = stage(row(status=status, errorcode=code, errormessage=message))
    await run.resolver().deliver(delivery(unknown()))
    error = published(run).error
    assert error is not None
    assert (published(run).status, error.code, error.retryable) == (Status.FAILED, expected, False)
    assert "abcdef1234567890" not in error.message
    assert len(error.message) < 1100


@pytest.mark.parametrize("status", ["Cancelled", "canceled", "CANCELLED"])
async def test_a_cancelled_run_settles_the_request_as_failed(status: str) -> None:
    run = stage(row(status=status))
    await run.resolver().deliver(delivery(unknown()))
    error = published(run).error
    assert error is not None
    assert (published(run).status, error.code) == (Status.FAILED, "run_cancelled")


async def test_two_runs_that_agree_settle_the_request_with_the_first() -> None:
    later = (CALLED + timedelta(seconds=30)).isoformat()
    run = stage(row("2", starttime=later), row("1"))
    await run.resolver().deliver(delivery(unknown()))
    result = published(run)
    assert result.run is not None
    assert result.run.run_id == "1"


# --- not found, or not ended -----------------------------------------------------------------------------------------


OTHERS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "running": [row(status="Running", endtime=None)],
    "unknown spelling": [row(status="Partially done")],
    "no status": [row(status=None)],
    "a second run is running": [row("1"), row("2", status="Running")],
    "a run before the request": [row(starttime=(CALLED - timedelta(minutes=6)).isoformat())],
    "a run after the result": [row(starttime=(FINISHED + timedelta(minutes=6)).isoformat())],
    "a run without a time": [row(starttime=None)],
    "another case of the tracking ID": [row(clienttrackingid="C-1")],
    "a flow that the flow called": [row(parentrunid="08584")],
}


@pytest.mark.parametrize("rows", OTHERS.values(), ids=OTHERS.keys())
async def test_without_an_ended_run_the_request_stays_unknown_and_is_looked_for_again(
    rows: list[dict[str, Any]],
) -> None:
    run = stage(*rows)
    assert await run.resolver().deliver(delivery(unknown())) == Postponed(run.now + RULES.pause)
    assert not run.queue.published
    run.now = FINISHED + RULES.max_age
    assert isinstance(await run.resolver().deliver(delivery(unknown())), Delivered)
    assert not run.queue.published, "absence never means that the flow did not run"


async def test_a_run_of_another_flow_is_not_the_request_s(caplog: pytest.LogCaptureFixture) -> None:
    run = stage(row(), workflows={"create-quote": "88888888-0000-4000-8000-000000000008"})
    assert isinstance(await run.resolver().deliver(delivery(unknown())), Postponed)
    same = stage(row(workflowid=WORKFLOW.upper()), workflows={"create-quote": WORKFLOW})
    assert await same.resolver().deliver(delivery(unknown())) == Delivered()


@pytest.mark.parametrize(
    ("attempts", "runs", "ends"),
    [
        (1, ["of-another"], None),
        (1, ["of-another", "own"], Status.FAILED),
        (2, ["of-another"], Status.SUCCEEDED),  # the flow named the run of the first call, and the second may have run
    ],
)
async def test_a_run_that_the_flow_named_is_the_only_one_that_counts(
    attempts: int, runs: list[str], ends: Status | None
) -> None:
    run = stage(*(row(each, status="Failed" if each == "own" else "Succeeded") for each in runs))
    attempt = await run.resolver().deliver(delivery(unknown(attempts=attempts, run=FlowRun(run_id="own"))))
    assert isinstance(attempt, Postponed if ends is None else Delivered)
    assert [each.status for each in run.queue.published.values()] == ([] if ends is None else [ends])


async def test_runs_that_ended_differently_settle_nothing(caplog: pytest.LogCaptureFixture) -> None:
    run = stage(row("1"), row("2", status="Failed"))
    with caplog.at_level(logging.WARNING):
        assert isinstance(await run.resolver().deliver(delivery(unknown())), Delivered)
    assert not run.queue.published
    assert "ended differently" in caplog.text


async def test_a_run_that_settled_another_request_of_the_same_correlation_id_settles_no_second_one() -> None:
    run = stage(row())
    assert isinstance(run.journal, Journal)
    run.journal.conclude(unknown("m-2"))
    assert await run.resolver().deliver(delivery(unknown())) == Delivered()
    assert isinstance(await run.resolver().deliver(delivery(unknown("m-2"), "m-2")), Postponed)
    assert len(run.queue.published) == 1
    run.organization.rows.append(row("08586", status="Failed"))
    assert await run.resolver().deliver(delivery(unknown("m-2"), "m-2")) == Delivered()
    assert [each.status for each in run.queue.published.values()] == [Status.SUCCEEDED, Status.FAILED]


async def test_the_searches_become_rarer() -> None:
    run = stage()
    times = []
    for _ in range(60):
        attempt = await run.resolver().deliver(delivery(unknown()))
        if not isinstance(attempt, Postponed):
            break
        times.append(attempt.until - run.now)
        run.now = attempt.until
    assert times[0] == RULES.pause
    assert max(times) == RULES.max_pause
    assert len(times) < 45
    assert run.now == FINISHED + RULES.max_age


# --- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "outage"), [(429, True), (503, True), (401, True), (403, False), (404, False)])
async def test_a_refusal_of_dataverse_is_tried_again(status: int, outage: bool) -> None:
    run = stage()
    run.organization.status, run.organization.headers = status, {"retry-after": "30"}
    attempt = await run.resolver().deliver(delivery(unknown()))
    assert isinstance(attempt, RetryLater)
    assert attempt.is_outage is outage
    if outage:
        assert attempt.not_before == run.now + timedelta(seconds=30)
    assert not run.queue.published


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"value": 1}',
        b'{"value": [1]}',
        b'{"value": [{"name": "../x"}]}',
        b'{"value": [{"name": 7}]}',
        json.dumps({"value": [row()], "@odata.nextLink": "https://elsewhere"}).encode(),
        json.dumps({"value": [row(str(n)) for n in range(51)]}).encode(),
    ],
)
async def test_an_answer_of_another_form_settles_nothing(body: bytes) -> None:
    run = stage()
    run.organization.body = body
    assert isinstance(await run.resolver().deliver(delivery(unknown())), RetryLater)
    assert not run.queue.published


# --- which requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "is_wanted"),
    [
        ({}, True),
        ({"state": "pending", "result": None}, False),
        ({"state": "settled"}, False),
        ({"is_owner": False}, False),
        ({"result": unknown(flow="another")}, False),
        ({"result": unknown(attempts=0)}, False),
        ({"result": unknown(status=Status.FAILED)}, False),
        ({"result": unknown(status=Status.SUCCEEDED, settled_by=SETTLED_BY_FLOW_RUN)}, False),
    ],
)
async def test_only_a_called_request_of_a_configured_flow_is_settled(changes: dict[str, Any], is_wanted: bool) -> None:
    resolver = stage().resolver()
    assert resolver.wants(replace(delivery(unknown()), **changes)) is is_wanted
    assert (resolver.first_delay_seconds, resolver.needs_reply_target) == (600, True)


async def test_a_request_that_the_journal_forgot_is_not_looked_for() -> None:
    run = stage(row())
    assert isinstance(await run.resolver().deliver(delivery(None)), Delivered)
    known = delivery(unknown(status=Status.FAILED))
    assert isinstance(await run.resolver().deliver(known), Delivered)
    assert not run.organization.asked


# --- the tracking ID -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["7c1b0f0e-6a5e-4d0f-9a3f-1d2b8e4c6a70", "order_7.1-b", "A" * 128])
def test_a_correlation_id_that_survives_the_round_trip_is_the_tracking_id(text: str) -> None:
    assert tracking_id(text) == text


@pytest.mark.parametrize("text", ["a b", "ä", "a'b", "a%20b", "a/b", "a\nb", "a:b", "\ud800", "A" * 129, "", "a\x00"])
def test_any_other_correlation_id_is_hashed(text: str) -> None:
    hashed = tracking_id(text)
    assert hashed.startswith("sha256-")
    assert tracking_id(hashed) == hashed
    assert hashed != tracking_id(text + "x")


async def test_the_search_uses_the_tracking_id_of_the_call() -> None:
    run = stage(result=unknown(correlation_id="order 7'"))
    await run.resolver().deliver(delivery(unknown(correlation_id="order 7'")))
    (url,) = run.organization.asked
    sought = tracking_id("order 7'")
    assert f"clienttrackingid eq '{sought}'" in url.params["$filter"]
    assert "clienttrackingid%20eq%20%27a%27%27b%27" in path_of("a'b")


@pytest.mark.parametrize(
    "time", ["2026-11-23T12:00:00Z", "2026-11-23T12:00:00.1234567Z", "2026-11-23T14:00:00+02:00", "2026-11-23T12:00"]
)
async def test_a_time_of_every_form_is_read(time: str) -> None:
    run = stage(row(starttime=time))
    assert await run.resolver().deliver(delivery(unknown())) == Delivered()


@pytest.mark.parametrize("time", ["soon", 7, "2026-13-01T00:00:00Z", {}])
async def test_a_run_with_an_unreadable_time_is_not_the_request_s(time: object) -> None:
    run = stage(row(starttime=time))
    assert isinstance(await run.resolver().deliver(delivery(unknown())), Postponed)
