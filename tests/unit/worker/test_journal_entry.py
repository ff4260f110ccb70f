"""Who may act on a request, and what is remembered of it: the journal's rules, as pure functions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flow_contracts.result import FlowError, FlowResult, FlowRun, Status
from flow_worker.journal import document
from flow_worker.journal.entry import Entry, JobKey, NextStep
from flow_worker.journal.history import FIRST_EVENTS, MAX_EVENTS, Event, with_event
from flow_worker.journal.port import Busy, Concluded, Conflict, Waiting
from flow_worker.journal.transitions import (
    Granted,
    LeaseRequest,
    RetentionRules,
    acquire,
    conclude,
    mark_published,
    release,
    schedule,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
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


def ask(
    entry: Entry | None, subject: JobKey = REQUEST, *, now: datetime = NOW, who: str = "mine", calls: int = 0
) -> Granted | Concluded | Busy | Waiting | Conflict:
    return acquire(entry, subject, LeaseRequest(who, now, LEASE, calls), RULES)


def taken(entry: Entry | None, subject: JobKey = REQUEST, **how: object) -> Granted:
    said = ask(entry, subject, **how)  # type: ignore[arg-type]  # the tests name real arguments
    assert isinstance(said, Granted), said
    return said


def waiting(step: NextStep = RETRY) -> Entry:
    held = taken(None).entry
    entry = schedule(held, held, step, NOW, RULES)
    assert entry is not None
    return entry


def concluded() -> Entry:
    held = taken(None).entry
    entry = conclude(held, held, RESULT, NOW, RULES)
    assert entry is not None
    return entry


# --- a request nobody is at --------------------------------------------------------------------------------------


def test_a_new_request_may_be_begun() -> None:
    said = taken(None)
    assert (said.interrupted, said.calls, said.step) == (False, 0, None)
    assert said.entry.state == "leased"


def test_what_a_continuation_knows_counts_if_the_journal_knows_less() -> None:
    assert taken(None, SECOND, calls=3).calls == 3


def test_an_entry_past_its_time_is_as_if_it_were_not_there() -> None:
    entry = concluded()
    assert isinstance(ask(entry, now=entry.expires - timedelta(seconds=1)), Concluded)
    assert taken(entry, now=entry.expires).entry.result is None


def test_a_request_that_was_given_back_may_be_begun_anew() -> None:
    held = taken(None).entry
    entry = release(held, held, NOW, RULES)
    assert not taken(entry, who="other").interrupted


def test_a_call_that_was_lost_is_not_forgotten_when_the_claim_after_it_is_given_back() -> None:
    """Else a flow that must not be called twice would be."""
    lost = taken(None).entry
    held = taken(lost, now=LATER).entry
    for _ in range(3):
        again = taken(release(held, held, LATER, RULES), who="other", now=LATER)
        assert (again.interrupted, again.calls) == (True, 0)
        held = again.entry
    assert taken(held, now=LATER + LEASE).calls == 1  # the lost call; the one under way may be another


# --- a request somebody is at ------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [REQUEST, COPY], ids=["the same message", "a copy of it"])
def test_a_held_claim_is_respected_until_its_lease_ends(subject: JobKey) -> None:
    entry = taken(None).entry
    assert ask(entry, subject, now=LATER - timedelta(seconds=1)) == Busy(LATER)
    assert taken(entry, subject, now=LATER).interrupted


def test_every_call_that_was_interrupted_is_counted() -> None:
    first = taken(None)
    second = taken(first.entry, now=LATER)
    third = taken(second.entry, now=LATER + LEASE)
    assert [one.calls for one in (first, second, third)] == [0, 0, 1]  # before the one that was interrupted


def test_a_poll_that_was_interrupted_is_no_call() -> None:
    polling = taken(waiting(POLL), SECOND).entry
    again = taken(polling, SECOND, now=LATER)
    assert (again.interrupted, again.step) == (True, POLL)
    assert again.entry.calls == 1


def test_a_continuation_proves_that_the_call_before_it_was_judged() -> None:
    entry = taken(None).entry  # its `wait` never came to the journal
    said = taken(entry, SECOND, calls=1)
    assert (said.interrupted, said.calls) == (False, 1)


def test_a_copys_continuation_proves_nothing_about_this_message() -> None:
    assert isinstance(ask(taken(None).entry, replace(COPY, number=1)), Busy)


# --- a request that waits ----------------------------------------------------------------------------------------


def test_the_continuation_that_is_waited_for_may_begin() -> None:
    said = taken(waiting(), SECOND)
    assert (said.interrupted, said.calls, said.step) == (False, 1, RETRY)


def test_a_later_continuation_may_begin_and_knows_better_than_the_entry() -> None:
    said = taken(waiting(), replace(REQUEST, number=2), calls=2)
    assert (said.interrupted, said.calls, said.step) == (False, 2, None)


@pytest.mark.parametrize("subject", [REQUEST, COPY, replace(COPY, number=1)])
def test_any_other_message_leaves_it_to_the_continuation(subject: JobKey) -> None:
    assert ask(waiting(), subject) == Waiting(RETRY, REQUEST.origin)


@pytest.mark.parametrize("subject", [REQUEST, COPY])
def test_a_continuation_that_does_not_come_is_not_waited_for_forever(subject: JobKey) -> None:
    entry, end = waiting(), RETRY.due + RULES.overdue
    assert isinstance(ask(entry, subject, now=end - timedelta(seconds=1)), Waiting)
    said = taken(entry, subject, now=end)
    assert (said.interrupted, said.calls, said.step) == (False, 1, RETRY)


def test_a_continuation_that_comes_late_finds_its_step_being_done() -> None:
    end = RETRY.due + RULES.overdue
    entry = taken(waiting(), REQUEST, now=end).entry
    assert isinstance(ask(entry, SECOND, now=end), Busy)


# --- a request that has its result -------------------------------------------------------------------------------


def test_a_result_is_found_again_and_whether_it_was_told() -> None:
    entry = concluded()
    assert ask(entry) == Concluded(RESULT, published=False)
    published = mark_published(entry, REQUEST.origin, NOW, RULES)
    assert ask(published) == Concluded(RESULT, published=True)
    assert ask(published, COPY) == Concluded(RESULT, published=False)


def test_a_result_is_noted_as_told_once() -> None:
    published = mark_published(concluded(), REQUEST.origin, NOW, RULES)
    assert mark_published(published, REQUEST.origin, NOW, RULES) is None


@pytest.mark.parametrize("entry", [taken(None).entry, waiting(), concluded()], ids=lambda entry: entry.state)
def test_another_request_under_the_same_id_is_a_conflict_whatever_became_of_the_first(entry: Entry) -> None:
    assert ask(entry, replace(REQUEST, fingerprint="bob asks")) == Conflict()


def test_the_first_result_stands() -> None:
    held = taken(None).entry
    late = RESULT.model_copy(update={"status": Status.UNKNOWN, "error": FlowError(code="answer_lost", message="")})
    entry = conclude(concluded(), held, late, NOW, RULES)
    assert entry is not None
    assert entry.result == RESULT


def test_an_answer_counts_even_if_the_claim_was_lost() -> None:
    held = taken(None).entry
    other = taken(held, now=LATER, who="other").entry
    entry = conclude(other, held, RESULT, LATER, RULES)
    assert entry is not None
    assert (entry.state, entry.result) == ("concluded", RESULT)


def test_a_result_does_not_overwrite_another_request() -> None:
    held = taken(None).entry
    other = taken(None, replace(REQUEST, fingerprint="bob asks")).entry
    assert conclude(other, held, RESULT, NOW, RULES) is None


def test_who_lost_the_claim_can_neither_release_it_nor_make_it_wait() -> None:
    held = taken(None).entry
    other = taken(held, now=LATER, who="other").entry
    assert release(other, held, LATER, RULES) is None
    assert schedule(other, held, RETRY, LATER, RULES) is None


# --- how long it is kept, and where ------------------------------------------------------------------------------


def test_an_entry_is_kept_for_the_retention_after_the_last_thing_that_is_still_to_come() -> None:
    far = replace(RETRY, due=NOW + timedelta(days=30))
    assert taken(None).entry.expires == LATER + RULES.retention
    assert waiting(far).expires == far.due + RULES.retention
    assert concluded().expires == NOW + RULES.retention


@pytest.mark.parametrize("entry", [taken(None).entry, waiting(POLL), concluded()], ids=lambda entry: entry.state)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert document.load(document.dump(entry)) == entry


def test_a_result_keeps_every_value_it_has() -> None:
    output = {"big": 2**70, "small": 5e-324, "text": "\u2028\x00é😀", "deep": [[[{}]]], "none": None, "minus": -0.0}
    held = taken(None).entry
    result = RESULT.model_copy(update={"output": output})
    entry = conclude(held, held, result, NOW, RULES)
    assert entry is not None
    read = document.load(document.dump(entry)).result
    assert read is not None
    assert read.model_dump_json() == result.model_dump_json()


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", document.dump(waiting()).replace(b'"waiting"', b'"dancing"')])
def test_what_is_no_entry_of_this_version_is_told_apart(data: bytes) -> None:
    with pytest.raises(document.UnreadableEntry):
        document.load(data)


def test_what_a_later_version_adds_to_an_entry_is_passed_over() -> None:
    data = document.dump(waiting()).replace(b'{"message_id"', b'{"news":1,"message_id"')
    assert document.load(data) == waiting()


# --- the story ---------------------------------------------------------------------------------------------------


def test_the_story_tells_what_happened() -> None:
    entry = taken(waiting(), SECOND).entry
    entry = taken(entry, SECOND, now=LATER).entry
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


def test_polls_that_find_nothing_new_are_counted_and_not_told_one_by_one() -> None:
    entry = waiting(POLL)
    for number in range(1, 50):
        held = taken(entry, replace(REQUEST, number=number)).entry
        polled = schedule(held, held, replace(POLL, number=number + 1), NOW, RULES)
        assert polled is not None
        entry = polled
    assert [(event.kind, event.count) for event in entry.history] == [("begun", 1), ("waits to poll", 50)]


def test_the_story_keeps_its_beginning_and_its_end() -> None:
    story: tuple[Event, ...] = ()
    for number in range(1000):
        story = with_event(story, Event(NOW, "begun", number))
    assert len(story) == MAX_EVENTS
    assert [event.number for event in story[:FIRST_EVENTS]] == list(range(FIRST_EVENTS))
    assert story[FIRST_EVENTS].kind == "events left out"
    assert story[FIRST_EVENTS].count == 1000 - (MAX_EVENTS - 1)
    assert story[-1].number == 999


def test_no_secret_is_shown() -> None:
    assert "secret" not in repr(waiting(POLL))
    assert "secret" not in str(waiting(POLL).history)
    assert "quote" not in repr(concluded()).replace(REQUEST.fingerprint, "")
