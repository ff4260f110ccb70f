"""The journal's pure transitions: leases, results, retention and history."""

from __future__ import annotations

import json
from dataclasses import fields, make_dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

import pytest
from pydantic import TypeAdapter

from flow_contracts import strict_json
from flow_contracts.result import SETTLED_BY_FLOW_RUN, FlowError, FlowResult, FlowRun, Status
from flow_worker.journal import document
from flow_worker.journal.entry import Entry, JobKey, NextStep
from flow_worker.journal.history import FIRST_EVENTS, MAX_EVENTS, Event, with_event
from flow_worker.journal.port import Busy, Concluded, Conflict, LeaseLost, Waiting
from flow_worker.journal.transitions import (
    Granted,
    LeaseRequest,
    RetentionRules,
    acquire,
    conclude,
    keep_published,
    mark_published,
    release,
    schedule,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
UNKNOWN = FlowResult(status=Status.UNKNOWN, attempts=1, correlation_id="c-1", request_message_id="m-1")
SETTLED = UNKNOWN.model_copy(update={"status": Status.SUCCEEDED, "settled_by": SETTLED_BY_FLOW_RUN})
CONCLUDED_UNKNOWN = Entry("m-1", "f", "o", "concluded", 1, NOW, result=UNKNOWN)
RULES = RetentionRules(retention=timedelta(days=7), overdue=timedelta(minutes=5))
LEASE = timedelta(seconds=60)
LATER = NOW + LEASE
REQUEST = JobKey(message_id="m-1", fingerprint="ada asks for a quote", origin="requests:1", number=0)
SECOND = replace(REQUEST, number=1)
COPY = replace(REQUEST, origin="requests:2")
RETRY = NextStep(
    number=1, kind="call", due=NOW + timedelta(seconds=10), calls=1, code="flow_throttled", cause="Too many."
)
POLL = NextStep(
    number=1,
    kind="poll",
    due=NOW + timedelta(seconds=20),
    calls=1,
    code="flow_running",
    cause="The flow is still running.",
    status_url="https://flow.example/runs/1?sig=secret",
    run=FlowRun(run_id="08585"),
    started=NOW,
)
RESULT = FlowResult(
    status=Status.SUCCEEDED, output={"quote": 7}, attempts=1, correlation_id="c-1", request_message_id="m-1"
)


def attempt(
    entry: Entry | None,
    job: JobKey = REQUEST,
    *,
    now: datetime = NOW,
    reached: datetime | None = None,
    holder: str = "mine",
    calls: int = 0,
    repeatable: bool = False,
    ending: bool = False,
) -> Granted | Concluded | Busy | Waiting | Conflict:
    request = LeaseRequest(holder, now, LEASE, calls, reached or now, repeatable=repeatable, ending=ending)
    return acquire(entry, job, request, RULES)


def granted(entry: Entry | None, job: JobKey = REQUEST, **arguments: object) -> Granted:
    answer = attempt(entry, job, **arguments)  # type: ignore[arg-type]  # each test passes arguments of `attempt`
    assert isinstance(answer, Granted), answer
    return answer


def waiting(step: NextStep = RETRY) -> Entry:
    leased = granted(None).entry
    entry = schedule(leased, leased, step, NOW, RULES)
    assert entry is not None
    return entry


def concluded() -> Entry:
    leased = granted(None).entry
    entry = conclude(leased, leased, RESULT, NOW, RULES)
    assert entry is not None
    return entry


# --- a request without a lease -----------------------------------------------------------------------------------


def test_a_new_request_is_leased() -> None:
    answer = granted(None)
    assert (answer.interrupted, answer.calls, answer.step) == (False, 0, None)
    assert answer.entry.state == "leased"


def test_the_calls_of_a_continuation_count_if_the_journal_knows_fewer() -> None:
    assert granted(None, SECOND, calls=3).calls == 3


def test_an_expired_entry_counts_as_absent() -> None:
    entry = concluded()
    assert isinstance(attempt(entry, now=entry.expires - timedelta(seconds=1)), Concluded)
    assert granted(entry, now=entry.expires).entry.result is None


def test_a_released_request_is_leased_again() -> None:
    leased = granted(None).entry
    entry = release(leased, leased, NOW, RULES)
    assert not granted(entry, holder="other").interrupted


def test_a_lost_call_is_remembered_when_the_next_lease_is_released() -> None:
    """Otherwise a flow that is not idempotent would be called twice."""
    lost = granted(None).entry
    leased = granted(lost, now=LATER, repeatable=True).entry
    for _ in range(3):
        again = granted(release(leased, leased, LATER, RULES), holder="other", now=LATER, repeatable=True)
        assert (again.interrupted, again.calls) == (True, 0)
        leased = again.entry
    assert granted(leased, now=LATER + LEASE).calls == 1  # the lost call; the one under way may be a second


# --- a request with a lease --------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [REQUEST, COPY], ids=["the same message", "a copy of it"])
def test_a_lease_is_respected_until_it_expires(job: JobKey) -> None:
    entry = granted(None).entry
    assert attempt(entry, job, now=LATER - timedelta(seconds=1)) == Busy(LATER)
    # A machine whose clock is ahead must not take over the lease of a call under way.
    assert attempt(entry, job, now=LATER + timedelta(minutes=2), reached=LATER - timedelta(seconds=1)) == Busy(LATER)
    assert granted(entry, job, now=LATER).interrupted


def test_every_interrupted_call_is_counted() -> None:
    first = granted(None)
    second = granted(first.entry, now=LATER, repeatable=True)
    third = granted(second.entry, now=LATER + LEASE)
    assert [granted.calls for granted in (first, second, third)] == [0, 0, 1]  # without the interrupted one


def test_a_lost_lease_that_only_ended_the_request_is_no_interrupted_call() -> None:
    lost = granted(None, ending=True).entry
    again = granted(lost, now=LATER)
    assert (again.interrupted, again.calls, again.entry.calls) == (False, 0, 0)


@pytest.mark.parametrize("ending", [True, False], ids=["to end the request", "of a flow that is not idempotent"])
def test_a_lost_call_counts_once_however_often_the_lease_is_lost_after_it(ending: bool) -> None:
    entry = granted(None).entry
    for n in range(1, 4):
        again = granted(entry, now=NOW + n * LEASE, ending=ending)
        assert (again.interrupted, again.calls, again.entry.calls) == (True, 0, 1)
        entry = again.entry


def test_a_call_that_was_cut_off_counts_after_the_release() -> None:
    leased = granted(None, repeatable=True).entry
    assert granted(release(leased, leased, NOW, RULES, calls=1)).calls == 1


def test_an_interrupted_poll_does_not_count_as_a_call() -> None:
    polling = granted(waiting(POLL), SECOND).entry
    again = granted(polling, SECOND, now=LATER)
    assert (again.interrupted, again.step) == (True, POLL)
    assert again.entry.calls == 1


def test_a_continuation_proves_that_the_call_before_it_was_judged() -> None:
    entry = granted(None).entry  # its `schedule` never reached the journal
    answer = granted(entry, SECOND, calls=1)
    assert (answer.interrupted, answer.calls) == (False, 1)


def test_the_continuation_of_a_copy_proves_nothing_about_this_message() -> None:
    assert isinstance(attempt(granted(None).entry, replace(COPY, number=1)), Busy)


# --- a request that waits ----------------------------------------------------------------------------------------


def test_the_expected_continuation_is_granted_the_lease() -> None:
    answer = granted(waiting(), SECOND)
    assert (answer.interrupted, answer.calls, answer.step) == (False, 1, RETRY)


def test_a_later_continuation_is_granted_the_lease_and_overrides_the_step() -> None:
    answer = granted(waiting(), replace(REQUEST, number=2), calls=2)
    assert (answer.interrupted, answer.calls, answer.step) == (False, 2, None)


@pytest.mark.parametrize("job", [REQUEST, COPY, replace(COPY, number=1)])
def test_any_other_message_leaves_the_request_to_the_continuation(job: JobKey) -> None:
    assert attempt(waiting(), job) == Waiting(RETRY, REQUEST.origin)


@pytest.mark.parametrize("job", [REQUEST, COPY])
def test_an_overdue_step_is_taken_over(job: JobKey) -> None:
    entry, end = waiting(), RETRY.due + RULES.overdue
    assert isinstance(attempt(entry, job, now=end - timedelta(seconds=1)), Waiting)
    answer = granted(entry, job, now=end)
    assert (answer.interrupted, answer.calls, answer.step) == (False, 1, RETRY)


def test_a_continuation_that_comes_after_the_takeover_is_refused() -> None:
    end = RETRY.due + RULES.overdue
    entry = granted(waiting(), REQUEST, now=end).entry
    assert isinstance(attempt(entry, SECOND, now=end), Busy)


# --- a request that has its result -------------------------------------------------------------------------------


def test_a_result_is_recalled_with_its_publication() -> None:
    entry = concluded()
    assert attempt(entry) == Concluded(RESULT, published=False)
    published = mark_published(entry, REQUEST.origin, NOW, RULES)
    assert attempt(published) == Concluded(RESULT, published=True)
    assert attempt(published, COPY) == Concluded(RESULT, published=False)


def test_a_result_is_marked_published_once() -> None:
    published = mark_published(concluded(), REQUEST.origin, NOW, RULES)
    assert mark_published(published, REQUEST.origin, NOW, RULES) is None


@pytest.mark.parametrize("entry", [granted(None).entry, waiting(), concluded()], ids=lambda entry: entry.state)
def test_another_request_under_the_same_id_is_a_conflict_in_every_state(entry: Entry) -> None:
    assert attempt(entry, replace(REQUEST, fingerprint="bob asks")) == Conflict()


def test_the_first_result_stands() -> None:
    leased = granted(None).entry
    late = RESULT.model_copy(update={"status": Status.UNKNOWN, "error": FlowError(code="answer_lost", message="")})
    entry = conclude(concluded(), leased, late, NOW, RULES)
    assert entry is not None
    assert entry.result == RESULT


def test_an_answer_counts_even_if_the_lease_was_lost() -> None:
    leased = granted(None).entry
    other = granted(leased, now=LATER, holder="other").entry
    entry = conclude(other, leased, RESULT, LATER, RULES)
    assert entry is not None
    assert (entry.state, entry.result) == ("concluded", RESULT)


@pytest.mark.parametrize("status", [Status.FAILED, Status.EXPIRED, Status.REFUSED])
def test_a_result_that_denies_a_call_does_not_stand_after_its_lease_was_lost(status: Status) -> None:
    ending = granted(None, ending=True).entry
    calling = granted(ending, now=LATER, holder="other").entry
    with pytest.raises(LeaseLost):
        conclude(calling, ending, RESULT.model_copy(update={"status": status, "attempts": 0}), LATER, RULES)


def test_the_attempts_of_a_result_include_the_lost_call_and_the_one_under_way() -> None:
    slow = granted(None, repeatable=True).entry
    quick = granted(slow, now=LATER, holder="other", repeatable=True).entry
    entry = conclude(quick, slow, RESULT, LATER, RULES)
    assert entry is not None
    assert entry.result == RESULT.model_copy(update={"attempts": 2})


def test_a_result_does_not_overwrite_another_request() -> None:
    leased = granted(None).entry
    other = granted(None, replace(REQUEST, fingerprint="bob asks")).entry
    assert conclude(other, leased, RESULT, NOW, RULES) is None


def test_a_lost_lease_can_neither_be_released_nor_scheduled() -> None:
    leased = granted(None).entry
    other = granted(leased, now=LATER, holder="other").entry
    assert release(other, leased, LATER, RULES) is None
    assert schedule(other, leased, RETRY, LATER, RULES) is None


# --- a published result without a lease ----------------------------------------------------------------------


def test_a_published_result_is_kept_for_its_own_retention() -> None:
    entry = keep_published(None, REQUEST, RESULT, NOW, timedelta(hours=1))
    assert entry is not None
    assert attempt(entry) == Concluded(RESULT, published=True)
    assert entry.expires == NOW + timedelta(hours=1)


def test_a_published_result_overwrites_no_entry() -> None:
    assert keep_published(granted(None).entry, REQUEST, RESULT, NOW, timedelta(hours=1)) is None


# --- retention and documents -------------------------------------------------------------------------------------


def test_the_retention_begins_after_the_last_expected_event() -> None:
    late_step = replace(RETRY, due=NOW + timedelta(days=30))
    assert granted(None).entry.expires == LATER + RULES.retention
    assert waiting(late_step).expires == late_step.due + RULES.retention
    assert concluded().expires == NOW + RULES.retention


@pytest.mark.parametrize("entry", [granted(None).entry, waiting(POLL), concluded()], ids=lambda entry: entry.state)
def test_an_entry_survives_a_round_trip_through_its_document(entry: Entry) -> None:
    assert document.load(document.dump(entry)) == entry


def test_a_result_keeps_unusual_values() -> None:
    output = {"big": 2**70, "small": 5e-324, "text": "\u2028\x00é😀", "deep": [[[{}]]], "none": None, "minus": -0.0}
    leased = granted(None).entry
    result = RESULT.model_copy(update={"output": output})
    entry = conclude(leased, leased, result, NOW, RULES)
    assert entry is not None
    read = document.load(document.dump(entry)).result
    assert read is not None
    assert read.model_dump_json() == result.model_dump_json()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        document.dump(waiting()).replace(b'"waiting"', b'"dancing"'),
        document.dump(waiting()).replace(b'{"message_id"', b'{"version":2,"message_id"'),
    ],
)
def test_a_document_that_is_not_an_entry_of_this_version_is_refused(data: bytes) -> None:
    with pytest.raises(document.UnreadableEntry):
        document.load(data)


def test_fields_of_a_later_version_are_ignored() -> None:
    data = document.dump(waiting()).replace(b'{"message_id"', b'{"news":1,"message_id"')
    assert document.load(data) == waiting()


# --- history -----------------------------------------------------------------------------------------------------


def test_the_history_lists_the_events() -> None:
    entry = granted(waiting(), SECOND).entry
    entry = granted(entry, SECOND, now=LATER).entry
    end = conclude(entry, entry, RESULT, LATER, RULES)
    published = mark_published(end, REQUEST.origin, LATER, RULES)
    assert published is not None
    assert [(event.kind, event.number, event.detail) for event in published.history] == [
        ("begun", 0, ""),
        ("waits to call", 1, "flow_throttled: Too many."),
        ("begun", 1, ""),
        ("taken over", 1, "the lease of the worker before expired"),
        ("concluded", 1, "succeeded"),
        ("published", 1, ""),
    ]


def test_polls_without_news_are_one_event_with_a_count() -> None:
    entry = waiting(POLL)
    for number in range(1, 50):
        leased = granted(entry, replace(REQUEST, number=number)).entry
        polled = schedule(leased, leased, replace(POLL, number=number + 1), NOW, RULES)
        assert polled is not None
        entry = polled
    assert [(event.kind, event.count) for event in entry.history] == [("begun", 1), ("waits to poll", 50)]


def test_a_long_history_keeps_its_beginning_and_its_end() -> None:
    history: tuple[Event, ...] = ()
    for number in range(1000):
        history = with_event(history, Event(NOW, "begun", number))
    assert len(history) == MAX_EVENTS
    assert [event.number for event in history[:FIRST_EVENTS]] == list(range(FIRST_EVENTS))
    assert history[FIRST_EVENTS].kind == "events left out"
    assert history[FIRST_EVENTS].count == 1000 - (MAX_EVENTS - 1)
    assert history[-1].number == 999


def test_no_secret_appears_in_a_representation() -> None:
    assert "secret" not in repr(waiting(POLL))
    assert "secret" not in str(waiting(POLL).history)
    assert "quote" not in repr(concluded()).replace(REQUEST.fingerprint, "")


def test_an_event_of_a_later_version_does_not_make_an_entry_unreadable() -> None:
    stored = json.loads(document.dump(waiting()))
    known = len(stored["history"])
    newer = stored["history"][0] | {"kind": "compensated", "novelty": 1}
    stored["history"] += [newer, {"kind": "begun"}, 7, newer | {"count": "many"}]
    read = document.load(json.dumps(stored).encode())
    assert (len(read.history), read.history[-1].kind) == (known + 1, "compensated")
    assert replace(read, history=()) == replace(waiting(), history=())
    assert document.load(json.dumps(stored | {"history": "none"}).encode()).history == ()


@pytest.mark.parametrize("change", [{"status": "compensated"}, {"error": 7}, {"output_encoding": "cbor"}])
def test_an_unreadable_result_of_a_later_version_still_keeps_workers_from_another_call(
    change: dict[str, object],
) -> None:
    entry = replace(waiting(), state="concluded", step=None, result=RESULT, published_for=REQUEST.origin)
    stored = json.loads(document.dump(entry))
    stored["result"] |= change
    read = document.load(json.dumps(stored).encode())
    answer = attempt(read)
    assert isinstance(answer, Concluded)
    assert (answer.result.status, answer.published) == (Status.UNKNOWN, True)
    assert answer.result.error is not None
    assert answer.result.error.code == "result_unreadable"
    assert (answer.result.correlation_id, answer.result.request_message_id) == ("c-1", "m-1")


def test_a_worker_of_an_earlier_version_reads_a_settled_entry() -> None:
    entry = document.load(document.dump(replace(CONCLUDED_UNKNOWN, settled=SETTLED)))
    assert entry.settled == SETTLED
    hints = get_type_hints(Entry)
    names = [each for each in fields(Entry) if each.name != "settled"]
    earlier = make_dataclass("Earlier", [(each.name, hints[each.name], each) for each in names], frozen=True)
    read: Any = TypeAdapter(earlier).validate_json(document.dump(entry), strict=True, context=strict_json.TRUSTED)
    assert (read.result, read.state, read.origin) == (entry.result, entry.state, entry.origin)


def test_an_unreadable_settling_result_of_a_later_version_is_left_out() -> None:
    data = json.loads(document.dump(replace(CONCLUDED_UNKNOWN, settled=SETTLED)))
    data["settled"]["status"] = "postponed"
    entry = document.load(json.dumps(data).encode())
    assert (entry.settled, entry.result) == (None, CONCLUDED_UNKNOWN.result)


def test_the_document_of_a_result_without_a_settling_one_has_no_field_for_it() -> None:
    assert b"settled" not in document.dump(replace(CONCLUDED_UNKNOWN, result=None))
