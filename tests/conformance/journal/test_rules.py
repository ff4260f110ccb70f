"""The journal's guarantees over every store: one lease, one result, recalled by the same request only."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import JsonValue

from flow_contracts.result import Status
from flow_worker.journal import Acquired, Busy, Concluded, Conflict, Journal, Pending, Waiting
from tests.conformance.journal.conftest import Place
from tests.conformance.journal.samples import LEASE, STEP, job, leased, result, settled

pytestmark = pytest.mark.asyncio(loop_scope="module")


# --- one lease ---------------------------------------------------------------------------------------------------


async def test_one_of_many_simultaneous_attempts_acquires_the_lease(place: Place) -> None:
    async with place.journal() as one, place.journal() as other:
        attempts = ((one, other)[n % 2].acquire(job(), duration=LEASE, calls=0) for n in range(20))
        answers = await asyncio.gather(*attempts)
    assert Counter(type(answer) for answer in answers) == {Acquired: 1, Busy: 19}
    assert {answer.until for answer in answers if isinstance(answer, Busy)} == {place.now + LEASE}


async def test_one_of_many_simultaneous_attempts_takes_over_an_expired_lease(place: Place) -> None:
    async with place.journal() as one, place.journal() as other:
        await leased(one)
        place.now += LEASE
        attempts = ((one, other)[n % 2].acquire(job(), duration=LEASE, calls=0) for n in range(20))
        answers = await asyncio.gather(*attempts)
    assert Counter(type(answer) for answer in answers) == {Acquired: 1, Busy: 19}
    assert [answer.interrupted for answer in answers if isinstance(answer, Acquired)] == [True]


async def test_a_released_lease_can_be_acquired_again(journal: Journal) -> None:
    await journal.release(await leased(journal))
    answer = await journal.acquire(job(), duration=LEASE, calls=0)
    assert isinstance(answer, Acquired)
    assert not answer.interrupted


async def test_a_lost_lease_can_neither_be_released_nor_scheduled(place: Place, journal: Journal) -> None:
    lost = await leased(journal)
    place.now += LEASE
    await leased(journal)
    await journal.release(lost)
    await journal.schedule(lost, STEP)
    assert isinstance(await journal.acquire(job(), duration=LEASE, calls=0), Busy)


# --- one result --------------------------------------------------------------------------------------------------


async def test_a_result_is_recalled_and_marked_published_only_after_it_was(place: Place) -> None:
    async with place.journal() as journal:
        assert await journal.conclude(await leased(journal), result({"quote": 7})) == result({"quote": 7})
        again = await journal.acquire(job(), duration=LEASE, calls=0)
        assert again == Concluded(result({"quote": 7}), published=False)
        await journal.mark_published("m-1", "requests:1")
    async with place.journal() as another:  # a process without the result in its cache
        again = await another.acquire(job(), duration=LEASE, calls=0)
        assert again == Concluded(result({"quote": 7}), published=True)
        await another.mark_published("m-1", "requests:2")
        copy = job(origin="requests:2")
        assert await another.acquire(copy, duration=LEASE, calls=0) == Concluded(result({"quote": 7}), published=True)


async def test_the_first_result_stands_after_a_takeover(place: Place, journal: Journal) -> None:
    slow = await leased(journal)
    place.now += LEASE
    quick = await leased(journal)
    unknown = result(status=Status.UNKNOWN)
    assert await journal.conclude(quick, unknown) == unknown
    assert await journal.conclude(slow, result({"quote": 7})) == unknown


async def test_one_of_many_simultaneous_settling_results_stands(place: Place) -> None:
    unknown, settling = result(status=Status.UNKNOWN), [settled(status) for status in (Status.SUCCEEDED, Status.FAILED)]
    async with place.journal() as one, place.journal() as other:
        await one.conclude(await leased(one), unknown)
        attempts = ((one, other)[n % 2].settle("m-1", settling[n % 2]) for n in range(10))
        stood = await asyncio.gather(*attempts)
    assert stood[0] in settling
    assert all(each == stood[0] for each in stood)
    async with place.journal() as another:
        entry = await another.find("m-1")
        assert entry is not None
        assert (entry.result, entry.settled, entry.standing) == (unknown, stood[0], stood[0])
        assert [event.kind for event in entry.history].count("settled") == 1
        await another.mark_published("m-1", "requests:2")
        copy = await another.acquire(job(origin="requests:2"), duration=LEASE, calls=0)
        assert copy == Concluded(settled(stood[0].status), published=True)


async def test_only_an_unknown_result_of_the_same_request_is_settled(place: Place, journal: Journal) -> None:
    assert await journal.settle("m-1", settled()) is None, "no entry"
    lease = await leased(journal)
    assert await journal.settle("m-1", settled()) is None, "no result"
    await journal.conclude(lease, result(status=Status.UNKNOWN))
    assert await journal.settle("m-1", settled().model_copy(update={"correlation_id": "c-2"})) is None, (
        "another request"
    )
    assert await journal.settle("m-1", settled()) == settled()
    await journal.conclude(await leased(journal, job("m-2")), result())
    assert await journal.settle("m-2", settled()) is None, "a known end"
    assert await journal.conclude(lease, result({"late": 1})) == settled(), "the settling result stands"
    place.now += timedelta(days=1000)
    assert await journal.settle("m-1", settled()) is None, "forgotten"


async def test_an_answer_that_comes_after_the_lease_was_lost_is_kept(place: Place, journal: Journal) -> None:
    slow = await leased(journal)
    place.now += LEASE
    quick = await leased(journal)
    await journal.conclude(slow, result({"quote": 7}))
    assert await journal.conclude(quick, result(status=Status.UNKNOWN)) == result({"quote": 7})


async def test_one_of_many_simultaneous_results_stands(place: Place, journal: Journal) -> None:
    leases = []
    for _ in range(5):
        leases.append(await leased(journal))
        place.now += LEASE
    stood = await asyncio.gather(*(journal.conclude(lease, result(n)) for n, lease in enumerate(leases)))
    assert len({standing.model_dump_json() for standing in stood}) == 1


async def test_a_large_compressible_result_is_kept_whole(journal: Journal) -> None:
    output: JsonValue = {
        "lines": ["Contoso Ltd., 12 x Surface Hub, delivered" for _ in range(100_000)]
    }  # 4.4 MB, compressible
    await journal.conclude(await leased(journal), result(output))
    assert await journal.acquire(job(), duration=LEASE, calls=0) == Concluded(result(output), published=False)


async def test_an_output_that_no_reply_queue_takes_is_not_kept(journal: Journal) -> None:
    large = result("x" * 400_000)
    lease = await leased(journal)
    assert await journal.conclude(lease, large, max_bytes=262_144) == large, "the caller publishes the same as before"
    answer = await journal.acquire(job(), duration=LEASE, calls=0)
    assert answer == Concluded(large.without_output(), published=False)


async def test_no_output_is_kept_beyond_the_senders_share(journal: Journal) -> None:
    small = result("x" * 10)
    assert await journal.conclude(await leased(journal), small, max_bytes=0) == small, "published the same as before"
    answer = await journal.acquire(job(), duration=LEASE, calls=0)
    assert isinstance(answer, Concluded)
    assert (answer.result.status, answer.result.output) == (small.status, None)


async def test_an_output_that_the_reply_queue_takes_is_kept_whole(journal: Journal) -> None:
    fitting = result("x" * 250_000)
    await journal.conclude(await leased(journal), fitting, max_bytes=262_144)
    assert await journal.acquire(job(), duration=LEASE, calls=0) == Concluded(fitting, published=False)


@pytest.mark.parametrize("kilobytes", [16, 200, 600])
async def test_an_incompressible_result_is_kept_whole(journal: Journal, kilobytes: int) -> None:
    # Hex digits compress to half their size, which is the number of random bytes.
    output = random.Random(kilobytes).randbytes(kilobytes * 1000).hex()  # noqa: S311 - the same each time
    await journal.conclude(await leased(journal), result(output))
    answer = await journal.acquire(job(), duration=LEASE, calls=0)
    assert isinstance(answer, Concluded)
    assert answer.result == result(output)


# --- the same request, and no other ------------------------------------------------------------------------------


async def test_another_request_under_the_same_id_is_a_conflict(journal: Journal) -> None:
    other = job(fingerprint="bob: quote")
    lease = await leased(journal)
    assert await journal.acquire(other, duration=LEASE, calls=0) == Conflict()
    await journal.conclude(lease, result())
    assert await journal.acquire(other, duration=LEASE, calls=0) == Conflict()
    assert await journal.recall(other) is None


async def test_a_request_is_recalled_as_pending_and_then_as_concluded(journal: Journal) -> None:
    assert await journal.recall(job()) is None
    lease = await leased(journal)
    assert await journal.recall(job()) == Pending(calls=0)
    await journal.schedule(lease, STEP)
    assert await journal.recall(job()) == Pending(calls=1)
    await journal.conclude(lease, result())
    assert await journal.recall(job(origin="requests:2")) == Concluded(result(), published=False)


@pytest.mark.parametrize("message_id", ["", "m/1?#\\ %", "ä€😀", "x" * 4000, "a'b\n\t"])
async def test_a_message_id_may_hold_anything(journal: Journal, message_id: str) -> None:
    await leased(journal, job(message_id))
    found = await journal.find(message_id)
    assert found is not None
    assert found.message_id == message_id


# --- waiting -----------------------------------------------------------------------------------------------------


async def test_a_waiting_request_is_left_to_its_continuation(journal: Journal) -> None:
    await journal.schedule(await leased(journal), STEP)
    assert await journal.acquire(job(), duration=LEASE, calls=0) == Waiting(STEP, "requests:1")
    answer = await journal.acquire(job(number=1), duration=LEASE, calls=1)
    assert isinstance(answer, Acquired)
    assert (answer.step, answer.calls, answer.interrupted) == (STEP, 1, False)


async def test_a_request_whose_continuation_is_overdue_is_taken_over(place: Place, journal: Journal) -> None:
    await journal.schedule(await leased(journal), STEP)
    place.now = STEP.due + timedelta(seconds=place.settings.overdue_seconds)
    answer = await journal.acquire(job(origin="requests:2"), duration=LEASE, calls=0)
    assert isinstance(answer, Acquired)
    assert (answer.step, answer.interrupted) == (STEP, False)
    assert isinstance(await journal.acquire(job(number=1), duration=LEASE, calls=1), Busy)


async def test_a_continuation_proceeds_even_if_the_journal_lost_the_entry(journal: Journal) -> None:
    answer = await journal.acquire(job(number=3), duration=LEASE, calls=2)
    assert isinstance(answer, Acquired)
    assert (answer.calls, answer.interrupted) == (2, False)


# --- retention and history ---------------------------------------------------------------------------------------


async def test_only_expired_entries_are_purged(place: Place, journal: Journal) -> None:
    for number in range(30):
        await journal.conclude(await leased(journal, job(f"old-{number}")), result())
    place.now += timedelta(days=1)
    await journal.conclude(await leased(journal, job("young")), result())
    place.now += timedelta(seconds=place.settings.retention_seconds) - timedelta(days=1)
    assert await journal.recall(job("old-1")) is None
    assert isinstance(await journal.acquire(job("old-1"), duration=LEASE, calls=0), Acquired)
    assert await journal.purge() == 29
    assert await journal.purge() == 0
    assert isinstance(await journal.recall(job("young")), Concluded)
    assert isinstance(await journal.recall(job("old-1")), Pending)


async def test_a_purge_deletes_expired_entries_in_several_batches(
    place: Place, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_worker.journal.stored._PURGE_BATCH", 8)
    for number in range(20):
        await leased(journal, job(f"old-{number}"))
    place.now += timedelta(seconds=place.settings.retention_seconds) + 2 * LEASE
    assert await journal.purge() == 20


async def test_the_entry_holds_the_whole_history(journal: Journal) -> None:
    lease = await leased(journal)
    await journal.schedule(lease, STEP)
    answer = await journal.acquire(job(number=1), duration=LEASE, calls=1)
    assert isinstance(answer, Acquired)
    await journal.conclude(answer.lease, result({"quote": 7}))
    await journal.mark_published("m-1", "requests:1")
    found = await journal.find("m-1")
    assert found is not None
    assert [event.kind for event in found.history] == ["begun", "waits to poll", "begun", "concluded", "published"]
    assert (found.state, found.calls, found.result, found.published_for) == (
        "concluded",
        1,
        result({"quote": 7}),
        "requests:1",
    )
    assert found.step is None, "the status URL is a secret and no longer needed"
    assert await journal.find("m-2") is None


async def test_an_old_lease_does_not_match_an_entry_that_was_created_again(place: Place, journal: Journal) -> None:
    """The entry expired, was purged and was created again: the old lease must not pass for the new one."""
    old = await leased(journal)
    place.now += timedelta(seconds=place.settings.retention_seconds) + 2 * LEASE
    assert await journal.purge() == 1
    await leased(journal)
    await journal.schedule(old, replace(STEP, due=place.now))
    assert isinstance(await journal.acquire(job(), duration=LEASE, calls=0), Busy)
