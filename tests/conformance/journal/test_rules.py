"""What a journal promises, whatever it is kept in: one claim, one result, found again by the same request only."""

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
from tests.conformance.journal.samples import LEASE, STEP, claimed, result, subject

pytestmark = pytest.mark.asyncio(loop_scope="module")


# --- one claim ---------------------------------------------------------------------------------------------------


async def test_of_many_that_begin_at_once_one_gets_the_claim(place: Place) -> None:
    async with place.journal() as one, place.journal() as other:
        attempts = ((one, other)[n % 2].acquire(subject(), duration=LEASE, calls=0) for n in range(20))
        begun = await asyncio.gather(*attempts)
    assert Counter(type(each) for each in begun) == {Acquired: 1, Busy: 19}
    assert {each.until for each in begun if isinstance(each, Busy)} == {place.now + LEASE}


async def test_of_many_that_take_over_at_once_one_gets_the_claim(place: Place) -> None:
    async with place.journal() as one, place.journal() as other:
        await claimed(one)
        place.now += LEASE
        attempts = ((one, other)[n % 2].acquire(subject(), duration=LEASE, calls=0) for n in range(20))
        begun = await asyncio.gather(*attempts)
    assert Counter(type(each) for each in begun) == {Acquired: 1, Busy: 19}
    assert [each.interrupted for each in begun if isinstance(each, Acquired)] == [True]


async def test_a_claim_that_was_given_back_may_be_had_again(journal: Journal) -> None:
    await journal.release(await claimed(journal))
    begun = await journal.acquire(subject(), duration=LEASE, calls=0)
    assert isinstance(begun, Acquired)
    assert not begun.interrupted


async def test_who_lost_the_claim_cannot_give_it_back(place: Place, journal: Journal) -> None:
    lost = await claimed(journal)
    place.now += LEASE
    await claimed(journal)
    await journal.release(lost)
    await journal.schedule(lost, STEP)
    assert isinstance(await journal.acquire(subject(), duration=LEASE, calls=0), Busy)


# --- one result --------------------------------------------------------------------------------------------------


async def test_a_result_is_told_to_the_same_request_and_not_marked_told_before_it_is(place: Place) -> None:
    async with place.journal() as journal:
        assert await journal.conclude(await claimed(journal), result({"quote": 7})) == result({"quote": 7})
        again = await journal.acquire(subject(), duration=LEASE, calls=0)
        assert again == Concluded(result({"quote": 7}), published=False)
        await journal.mark_published("m-1", "requests:1")
    async with place.journal() as another:  # a process that has it from the store alone
        again = await another.acquire(subject(), duration=LEASE, calls=0)
        assert again == Concluded(result({"quote": 7}), published=True)
        await another.mark_published("m-1", "requests:2")
        copy = subject(origin="requests:2")
        assert await another.acquire(copy, duration=LEASE, calls=0) == Concluded(result({"quote": 7}), published=True)


async def test_the_first_result_stands_after_a_take_over(place: Place, journal: Journal) -> None:
    slow = await claimed(journal)
    place.now += LEASE
    quick = await claimed(journal)
    unknown = result(status=Status.UNKNOWN)
    assert await journal.conclude(quick, unknown) == unknown
    assert await journal.conclude(slow, result({"quote": 7})) == unknown


async def test_an_answer_that_came_after_the_claim_was_lost_is_kept(place: Place, journal: Journal) -> None:
    slow = await claimed(journal)
    place.now += LEASE
    quick = await claimed(journal)
    await journal.conclude(slow, result({"quote": 7}))
    assert await journal.conclude(quick, result(status=Status.UNKNOWN)) == result({"quote": 7})


async def test_of_many_results_at_once_one_stands(place: Place, journal: Journal) -> None:
    leases = []
    for _ in range(5):
        leases.append(await claimed(journal))
        place.now += LEASE
    stood = await asyncio.gather(*(journal.conclude(lease, result(n)) for n, lease in enumerate(leases)))
    assert len({one.model_dump_json() for one in stood}) == 1


async def test_a_result_as_large_as_flows_give_is_kept_whole(journal: Journal) -> None:
    output: JsonValue = {
        "lines": ["Contoso Ltd., 12 x Surface Hub, delivered" for _ in range(100_000)]
    }  # 4.4 MB, compressible
    await journal.conclude(await claimed(journal), result(output))
    assert await journal.acquire(subject(), duration=LEASE, calls=0) == Concluded(result(output), published=False)


@pytest.mark.parametrize("kilobytes", [16, 200, 600])
async def test_a_result_that_cannot_be_compressed_is_kept_whole(journal: Journal, kilobytes: int) -> None:
    # Hex digits are compressed to half: so many random bytes are so many bytes in the store.
    output = random.Random(kilobytes).randbytes(kilobytes * 1000).hex()  # noqa: S311 - the same each time
    await journal.conclude(await claimed(journal), result(output))
    begun = await journal.acquire(subject(), duration=LEASE, calls=0)
    assert isinstance(begun, Concluded)
    assert begun.result == result(output)


# --- the same request, and no other ------------------------------------------------------------------------------


async def test_another_request_under_the_same_id_is_a_conflict(journal: Journal) -> None:
    other = subject(asks="bob: quote")
    lease = await claimed(journal)
    assert await journal.acquire(other, duration=LEASE, calls=0) == Conflict()
    await journal.conclude(lease, result())
    assert await journal.acquire(other, duration=LEASE, calls=0) == Conflict()
    assert await journal.recall(other) is None


async def test_what_is_recalled(journal: Journal) -> None:
    assert await journal.recall(subject()) is None
    lease = await claimed(journal)
    assert await journal.recall(subject()) == Pending(calls=0)
    await journal.schedule(lease, STEP)
    assert await journal.recall(subject()) == Pending(calls=1)
    await journal.conclude(lease, result())
    assert await journal.recall(subject(origin="requests:2")) == Concluded(result(), published=False)


@pytest.mark.parametrize("message_id", ["", "m/1?#\\ %", "ä€😀", "x" * 4000, "a'b\n\t"])
async def test_a_message_id_may_hold_anything(journal: Journal, message_id: str) -> None:
    await claimed(journal, subject(message_id))
    found = await journal.find(message_id)
    assert found is not None
    assert found.message_id == message_id


# --- waiting -----------------------------------------------------------------------------------------------------


async def test_a_request_that_waits_is_carried_on_by_its_continuation(journal: Journal) -> None:
    await journal.schedule(await claimed(journal), STEP)
    assert await journal.acquire(subject(), duration=LEASE, calls=0) == Waiting(STEP, "requests:1")
    begun = await journal.acquire(subject(number=1), duration=LEASE, calls=1)
    assert isinstance(begun, Acquired)
    assert (begun.step, begun.calls, begun.interrupted) == (STEP, 1, False)


async def test_a_request_whose_continuation_does_not_come_is_taken_over(place: Place, journal: Journal) -> None:
    await journal.schedule(await claimed(journal), STEP)
    place.now = STEP.due + timedelta(seconds=place.settings.overdue_seconds)
    begun = await journal.acquire(subject(origin="requests:2"), duration=LEASE, calls=0)
    assert isinstance(begun, Acquired)
    assert (begun.step, begun.interrupted) == (STEP, False)
    assert isinstance(await journal.acquire(subject(number=1), duration=LEASE, calls=1), Busy)


async def test_a_continuation_goes_on_even_if_the_journal_lost_what_was_before(journal: Journal) -> None:
    begun = await journal.acquire(subject(number=3), duration=LEASE, calls=2)
    assert isinstance(begun, Acquired)
    assert (begun.calls, begun.interrupted) == (2, False)


# --- time, and the story -----------------------------------------------------------------------------------------


async def test_entries_expire_and_are_purged_and_no_others(place: Place, journal: Journal) -> None:
    for number in range(30):
        await journal.conclude(await claimed(journal, subject(f"old-{number}")), result())
    place.now += timedelta(days=1)
    await journal.conclude(await claimed(journal, subject("young")), result())
    place.now += timedelta(seconds=place.settings.retention_seconds) - timedelta(days=1)
    assert await journal.recall(subject("old-1")) is None
    assert isinstance(await journal.acquire(subject("old-1"), duration=LEASE, calls=0), Acquired)
    assert await journal.purge() == 29
    assert await journal.purge() == 0
    assert isinstance(await journal.recall(subject("young")), Concluded)
    assert isinstance(await journal.recall(subject("old-1")), Pending)


async def test_a_purge_takes_what_has_expired_however_much_it_is(
    place: Place, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_worker.journal.stored._PURGE_BATCH", 8)
    for number in range(20):
        await claimed(journal, subject(f"old-{number}"))
    place.now += timedelta(seconds=place.settings.retention_seconds) + 2 * LEASE
    assert await journal.purge() == 20


async def test_the_whole_story_is_found(journal: Journal) -> None:
    lease = await claimed(journal)
    await journal.schedule(lease, STEP)
    begun = await journal.acquire(subject(number=1), duration=LEASE, calls=1)
    assert isinstance(begun, Acquired)
    await journal.conclude(begun.lease, result({"quote": 7}))
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
    assert found.step is None, "the status URL is a secret that nobody needs any more"
    assert await journal.find("m-2") is None


async def test_claims_tell_apart_entries_that_look_alike(place: Place, journal: Journal) -> None:
    """The entry expired, was purged and made anew: an old claim must not pass for the new one."""
    old = await claimed(journal)
    place.now += timedelta(seconds=place.settings.retention_seconds) + 2 * LEASE
    assert await journal.purge() == 1
    await claimed(journal)
    await journal.schedule(old, replace(STEP, due=place.now))
    assert isinstance(await journal.acquire(subject(), duration=LEASE, calls=0), Busy)
