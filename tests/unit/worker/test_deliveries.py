"""The runner delivers each state once, with the newest content, through failures, outages, deaths and stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.result import Status
from flow_worker.delivery.lane import LaneRules, SinkLane
from flow_worker.delivery.outbox import DeliveryOutbox
from flow_worker.delivery.owed import Owed
from flow_worker.delivery.port import Attempt, Delivered, Delivery, GiveUp, Postponed, RetryLater
from flow_worker.delivery.report import NoMeasures, SinkReport
from flow_worker.delivery.runner import DeliveryRunner
from flow_worker.delivery.store import StoredRow
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Entry
from flow_worker.telemetry.sink_health import SinkHealth
from tests.support.outbox import NOW, RETENTION, Clock, MemoryOutbox, RecordingSink, ended, entry, owed, result

pytestmark = pytest.mark.asyncio
CHECK = timedelta(seconds=900)
LEASE_SECONDS = 30.0 + 30.0


@dataclass
class Bench:
    """A worker's runner over an outbox, a journal and sinks in memory."""

    clock: Clock = field(default_factory=Clock)
    store: MemoryOutbox = field(default_factory=MemoryOutbox)
    entries: dict[str, Entry] = field(default_factory=dict)
    sinks: Sequence[RecordingSink] = field(default_factory=lambda: [RecordingSink()])
    is_journal_down: bool = False
    max_concurrent: int = 4
    attempt_seconds: float = 30.0

    def __post_init__(self) -> None:
        self.health = {sink.name: SinkHealth() for sink in self.sinks}
        self.outbox, self.runner = self.worker()

    def worker(self, *sinks: RecordingSink) -> tuple[DeliveryOutbox, DeliveryRunner]:
        """Return the outbox and the runner of another worker, with the same sinks unless it has its own."""
        outbox = DeliveryOutbox(self.store, retention=RETENTION, deadline_seconds=5, now=self.clock.now)
        rules = LaneRules(
            max_concurrent=self.max_concurrent,
            attempt_seconds=self.attempt_seconds,
            pauses=ExponentialBackoff(2.0, 300.0),
            max_age=timedelta(days=3),
            check=CHECK,
        )
        lanes = [
            SinkLane(
                sink,
                rules,
                outbox,
                self.find,
                SinkReport(sink.name, self.health[sink.name], NoMeasures(), monotonic=self.seconds),
                now=self.clock.now,
            )
            for sink in sinks or self.sinks
        ]
        return outbox, DeliveryRunner(outbox, lanes, interval_seconds=5.0, monotonic=self.seconds)

    def seconds(self) -> float:
        return (self.clock.time - NOW).total_seconds()

    async def find(self, message_id: str) -> Entry | None:
        if self.is_journal_down:
            raise TemporarilyUnavailable("journal_unavailable", "the journal is down")
        return self.entries.get(message_id)

    @property
    def sink(self) -> RecordingSink:
        return self.sinks[0]

    async def open(self, *new: Owed) -> None:
        self.runner.offer(await self.outbox.open(new))

    async def settle(self, runner: DeliveryRunner | None = None) -> None:
        """Let the runner work until nothing is left to do at this time."""
        runner = runner or self.runner
        for _ in range(20):
            await runner.turn()
            for _ in range(20):
                await asyncio.sleep(0)

    async def pass_seconds(self, seconds: float) -> None:
        self.clock.pass_seconds(seconds)
        await self.settle()

    async def record(self, key: str | None = None) -> Owed | None:
        return await self.outbox.find(key or owed().key)


async def test_a_request_is_delivered_pending_and_then_with_its_result() -> None:
    bench = Bench()
    bench.entries["m-1"] = entry(None)
    await bench.open(owed())
    await bench.settle()
    assert bench.sink.states == ["pending"]
    assert bench.sink.seen[0].result is None
    whole = result(output="the quote")
    bench.entries["m-1"] = entry(whole)
    await bench.open(ended())
    await bench.settle()
    assert bench.sink.states == ["pending", "ended"]
    assert bench.sink.seen[1].result == whole  # with the output, which only the journal holds
    assert bench.store.rows_by_key == {}


async def test_no_document_of_the_outbox_holds_an_output() -> None:
    bench = Bench()
    bench.store.is_down = False
    await bench.outbox.open([ended()])
    assert all(b"the quote" not in row.document for row, _ in bench.store.rows_by_key.values())


async def test_the_newest_content_wins_whatever_the_order_of_the_attempts() -> None:
    bench = Bench(sinks=[RecordingSink(answers=[RetryLater("c", "why"), RetryLater("c", "why")])])
    await bench.open(owed())
    await bench.settle()
    bench.entries["m-1"] = entry(result(Status.UNKNOWN))
    await bench.open(ended(Status.UNKNOWN))
    await bench.settle()
    bench.entries["m-1"] = entry(result(Status.UNKNOWN), settled=result(Status.SUCCEEDED))
    await bench.open(ended(state="settled", result=result(Status.SUCCEEDED)))
    await bench.settle()
    assert bench.sink.states == ["pending", "ended", "settled"]
    last = bench.sink.seen[-1].result
    assert last is not None
    assert last.status is Status.SUCCEEDED


async def test_a_state_that_comes_during_an_attempt_follows_it_at_once_and_never_beside_it() -> None:
    bench = Bench()
    hold = asyncio.Event()

    async def wait(delivery: Delivery) -> None:
        if delivery.state == "pending":
            await hold.wait()

    bench.sink.before_answer = wait
    await bench.open(owed())
    await bench.settle()
    bench.entries["m-1"] = entry(result())
    await bench.open(ended())
    await bench.settle()
    assert bench.sink.states == ["pending"]
    hold.set()
    await bench.settle()
    assert bench.sink.states == ["pending", "ended"]
    assert bench.sink.max_in_flight == 1
    assert bench.store.rows_by_key == {}


async def test_failures_are_repeated_with_growing_pauses() -> None:
    failures: list[Attempt | Exception] = [RetryLater("c", "why"), OSError("no"), RetryLater("c", "why")]
    bench = Bench(sinks=[RecordingSink(answers=failures)])
    await bench.open(ended())
    await bench.settle()
    for pause in (2, 4, 8):
        seen = len(bench.sink.seen)
        await bench.pass_seconds(pause - 0.1)
        assert len(bench.sink.seen) == seen
        await bench.pass_seconds(5.1)  # the runner looks every 5 s
        assert len(bench.sink.seen) == seen + 1
    assert [each.attempts for each in bench.sink.seen] == [0, 1, 2, 3]
    assert bench.store.rows_by_key == {}


async def test_retry_after_is_kept() -> None:
    until = NOW + timedelta(seconds=100)
    bench = Bench(sinks=[RecordingSink(answers=[RetryLater("dataverse_throttled", "too many", until)])])
    await bench.open(ended())
    await bench.settle()
    await bench.pass_seconds(99)
    assert len(bench.sink.seen) == 1
    await bench.pass_seconds(6)
    assert len(bench.sink.seen) == 2


async def test_one_throttled_answer_pauses_the_whole_organization_and_one_attempt_tests_it() -> None:
    until = NOW + timedelta(seconds=60)
    throttled = RetryLater("dataverse_throttled", "too many", until, is_outage=True)
    bench = Bench(sinks=[RecordingSink(answers=[throttled, throttled])], max_concurrent=1)
    await bench.open(*(ended(message_id=f"m-{number}") for number in range(10)))
    await bench.settle()
    await bench.pass_seconds(50)
    assert len(bench.sink.seen) == 1
    assert not bench.health["row"].is_available
    bench.sink.answers = [RetryLater("dataverse_throttled", "too many", NOW + timedelta(seconds=130), is_outage=True)]
    await bench.pass_seconds(15)
    assert len(bench.sink.seen) == 2  # the one that tests it
    await bench.pass_seconds(70)
    assert len(bench.sink.seen) == 12
    assert bench.store.rows_by_key == {}
    assert bench.health["row"].is_available


async def test_an_outage_of_one_organization_does_not_hold_back_another() -> None:
    class TwoOrganizations(RecordingSink):
        def target_of(self, delivery: Delivery) -> str:
            return delivery.request_queue

        async def deliver(self, delivery: Delivery) -> Attempt:
            await super().deliver(delivery)
            return RetryLater("c", "down", is_outage=True) if delivery.request_queue == "down" else Delivered()

    bench = Bench(sinks=[TwoOrganizations()])
    down = [ended(message_id=f"d-{number}", request_queue="down") for number in range(60)]
    up = [ended(message_id=f"u-{number}", request_queue="up") for number in range(60)]
    await bench.outbox.open([*down, *up])  # not offered: another worker opened them
    for _ in range(20):
        await bench.settle()
        bench.clock.pass_seconds(5)
    left = [each.message_id async for each in bench.outbox.all()]
    assert sorted(left) == sorted(each.message_id for each in down)
    assert len([each for each in bench.sink.seen if each.request_queue == "down"]) < 20


class OrderedByKey(MemoryOutbox):
    """Returns what is due in the order of the keys, as Table Storage does."""

    async def due(self, sink: str, now: datetime, limit: int) -> list[StoredRow]:
        return sorted(await super().due(sink, now, 10_000), key=lambda row: row.key)[:limit]


class Rejecting(RecordingSink):
    """A sink whose organization answers one request with an outage each time, as a firewall may."""

    poison: str = ""

    async def deliver(self, delivery: Delivery) -> Attempt:
        answer = await super().deliver(delivery)
        return RetryLater("down", "503", is_outage=True) if delivery.message_id == self.poison else answer


@pytest.mark.parametrize("store", [MemoryOutbox, OrderedByKey])
async def test_one_delivery_that_always_meets_an_outage_does_not_hold_back_the_others(
    store: type[MemoryOutbox],
) -> None:
    sink = Rejecting()
    bench = Bench(store=store(), sinks=[sink], max_concurrent=1)
    records = [ended(message_id=f"m-{number}") for number in range(5)]
    sink.poison = min(records, key=lambda each: each.key).message_id
    await bench.open(*sorted(records, key=lambda each: each.key))
    for _ in range(4):
        await bench.pass_seconds(10)
    assert list(bench.store.rows_by_key) == [min(each.key for each in records)]


async def test_the_lane_is_bounded() -> None:
    bench = Bench()

    async def pause(_: Delivery) -> None:
        for _turn in range(5):
            await asyncio.sleep(0)

    bench.sink.before_answer = pause
    await bench.open(*(ended(message_id=f"m-{number}") for number in range(600)))
    for _ in range(40):
        await bench.settle()
    assert bench.sink.max_in_flight == 4
    assert bench.store.rows_by_key == {}
    assert len(bench.sink.seen) == 600


async def test_two_workers_deliver_once() -> None:
    bench = Bench()
    outbox, runner = bench.worker()
    new = [ended(message_id=f"m-{number}") for number in range(50)]
    bench.runner.offer(await bench.outbox.open(new))
    runner.offer(await outbox.open(new))
    for _ in range(5):
        await asyncio.gather(bench.settle(), bench.settle(runner))
    assert sorted(each.message_id for each in bench.sink.seen) == sorted(each.message_id for each in new)


async def test_a_dead_workers_delivery_is_taken_over_after_its_lease() -> None:
    bench = Bench()
    forever = asyncio.Event()
    dead = RecordingSink(before_answer=lambda _: forever.wait())
    outbox, runner = bench.worker(dead)
    runner.offer(await outbox.open([ended()]))
    await bench.settle(runner)
    assert len(dead.seen) == 1
    await bench.pass_seconds(LEASE_SECONDS - 1)
    assert bench.sink.seen == []
    await bench.pass_seconds(6)
    assert bench.sink.states == ["ended"]
    forever.set()
    await bench.settle(runner)
    assert bench.store.rows_by_key == {}


async def test_what_waits_for_its_time_is_not_attempted_before() -> None:
    bench = Bench()
    await bench.open(ended(due=NOW + timedelta(seconds=60)))
    await bench.pass_seconds(59)
    assert bench.sink.seen == []
    await bench.pass_seconds(6)
    assert len(bench.sink.seen) == 1


async def test_postponing_is_no_failure() -> None:
    bench = Bench(sinks=[RecordingSink(answers=[Postponed(NOW + timedelta(seconds=60))])])
    await bench.open(ended())
    await bench.pass_seconds(59)
    assert len(bench.sink.seen) == 1
    assert bench.health["row"].is_available
    await bench.pass_seconds(6)
    assert [each.attempts for each in bench.sink.seen] == [0, 0]


# --- giving up --------------------------------------------------------------------------------------------------------


async def test_a_delivery_that_is_given_up_is_said_once_and_kept_for_a_person(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(sinks=[RecordingSink(answers=[GiveUp("table_missing", "there is no table; create it")] * 2)])
    with caplog.at_level(logging.INFO):
        await bench.open(owed())
        await bench.settle()  # `pending` is given up without a word: its end follows
        await bench.open(ended())
        await bench.settle()
        await bench.pass_seconds(100_000)
    lines = [record for record in caplog.records if record.__dict__.get("event") == "delivery.given_up"]
    assert len(lines) == 1
    assert "there is no table; create it" in lines[0].getMessage()
    found = await bench.record()
    assert found is not None
    assert (found.is_given_up, found.due) == (True, None)
    assert bench.health["row"].given_up == 1
    assert await bench.outbox.retry(found.key)
    await bench.pass_seconds(5)
    assert bench.store.rows_by_key == {}


async def test_what_fails_for_too_long_is_given_up_and_its_outage_is_folded(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(sinks=[RecordingSink(answers=[RetryLater("dataverse_unavailable", "it is down")] * 10_000)])
    with caplog.at_level(logging.INFO):
        await bench.open(ended())
        await bench.settle()
        for _ in range(500):
            await bench.pass_seconds(600)
            bench.clock.pass_seconds(0)
    found = await bench.record()
    assert found is not None
    assert found.is_given_up
    assert found.trouble is not None
    assert found.trouble.code == "dataverse_unavailable"
    assert "no attempt succeeded after 259200 s" in found.trouble.cause


async def test_an_outage_is_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Attempt | Exception] = [RetryLater("dataverse_unavailable", "it is down", is_outage=True)] * 5
    bench = Bench(sinks=[RecordingSink(answers=failures)])
    with caplog.at_level(logging.INFO):
        await bench.open(*(ended(message_id=f"m-{number}") for number in range(8)))
        for _ in range(10):
            await bench.pass_seconds(5)
    events = [record.__dict__.get("event") for record in caplog.records]
    assert events.count("delivery.failing") == 1
    assert events.count("delivery.recovered") == 1
    assert events.count("delivery.delivered") == 8


# --- the journal ------------------------------------------------------------------------------------------------------


async def test_a_result_whose_delivery_nobody_could_open_is_found_in_the_journal() -> None:
    bench = Bench()
    bench.entries["m-1"] = entry(None)
    await bench.open(owed())
    await bench.settle()
    await bench.pass_seconds(CHECK.total_seconds() + 5)
    assert bench.sink.states == ["pending"]  # it only looked
    bench.entries["m-1"] = entry(result())
    await bench.pass_seconds(CHECK.total_seconds() + 10)
    assert bench.sink.states == ["pending", "ended"]
    assert bench.store.rows_by_key == {}


async def test_a_result_that_the_sink_does_not_want_ends_the_delivery() -> None:
    bench = Bench(sinks=[RecordingSink(wanted=frozenset({"pending"}))])
    await bench.open(owed())
    await bench.settle()
    bench.entries["m-1"] = entry(result())
    await bench.pass_seconds(CHECK.total_seconds() + 5)
    assert bench.sink.states == ["pending"]
    assert bench.store.rows_by_key == {}


async def test_pending_is_not_delivered_any_more_once_the_journal_has_the_result() -> None:
    bench = Bench()
    bench.entries["m-1"] = entry(result())
    await bench.open(owed())
    await bench.settle()
    assert bench.sink.seen == []
    await bench.open(ended())
    await bench.settle()
    assert bench.sink.states == ["ended"]


async def test_the_entry_of_another_request_under_the_same_message_id_counts_nothing() -> None:
    bench = Bench()
    bench.entries["m-1"] = entry(result(output="somebody else's quote"), fingerprint="another")
    await bench.open(owed())
    await bench.settle()
    assert bench.sink.states == ["pending"]
    refused = result(Status.REFUSED)
    await bench.open(ended(Status.REFUSED, is_owner=False, result=refused))
    await bench.settle()
    assert bench.sink.seen[-1].result == refused


async def test_a_result_that_the_journal_has_forgotten_is_delivered_without_its_output() -> None:
    bench = Bench()
    await bench.open(ended())
    await bench.settle()
    delivered = bench.sink.seen[0].result
    assert delivered is not None
    assert (delivered.status, delivered.output) == (Status.SUCCEEDED, None)


async def test_a_journal_that_is_down_is_no_failure_of_the_sink() -> None:
    bench = Bench(is_journal_down=True)
    await bench.open(ended())
    await bench.settle()
    assert bench.sink.seen == []
    assert bench.health["row"].is_available
    bench.is_journal_down = False
    await bench.pass_seconds(15)
    assert bench.sink.states == ["ended"]


# --- the outbox, the settings and the stop ----------------------------------------------------------------------------


async def test_an_outbox_that_is_down_is_said_once_and_then_everything_is_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    await bench.outbox.open([ended()])
    bench.store.is_down = True
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            await bench.pass_seconds(5)
        assert bench.sink.seen == []
        bench.store.is_down = False
        await bench.pass_seconds(5)
    assert bench.sink.states == ["ended"]
    events = [record.__dict__.get("event") for record in caplog.records]
    assert (events.count("outbox.unavailable"), events.count("outbox.available")) == (1, 1)


async def test_a_sink_that_the_settings_do_not_name_any_more_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await bench.open(ended(sink="removed"))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await bench.pass_seconds(1000)
    lines = [record for record in caplog.records if record.__dict__.get("event") == "delivery.sink_missing"]
    assert len(lines) == 1
    assert "delivery.removed" in lines[0].getMessage()
    assert await bench.record(ended(sink="removed").key) is not None  # until it expires, or the sink comes back


async def test_an_attempt_has_a_deadline() -> None:
    forever = asyncio.Event()
    bench = Bench(sinks=[RecordingSink(before_answer=lambda _: forever.wait())], attempt_seconds=0.01)
    await bench.open(ended())
    await bench.settle()
    await asyncio.sleep(0.05)
    found = await bench.record()
    assert found is not None
    assert found.trouble is not None
    assert found.trouble.code == "delivery_timeout"


async def test_a_stop_waits_for_the_attempts_under_way_and_begins_none() -> None:
    bench = Bench(max_concurrent=1)
    hold = asyncio.Event()
    bench.sink.before_answer = lambda _: hold.wait()
    running = asyncio.create_task(bench.runner.run())
    await bench.open(ended(message_id="m-1"), ended(message_id="m-2"))
    await bench.sink.began.wait()
    bench.runner.stop()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not running.done()
    hold.set()
    await asyncio.wait_for(running, 5)
    assert len(bench.sink.seen) == 1
    assert len(bench.store.rows_by_key) == 1


async def test_an_interrupt_ends_the_attempts_under_way_and_another_worker_repeats_them() -> None:
    bench = Bench()
    bench.sink.before_answer = lambda _: asyncio.Event().wait()
    running = asyncio.create_task(bench.runner.run())
    await bench.open(ended())
    await bench.sink.began.wait()
    bench.runner.stop()
    bench.runner.interrupt()
    await asyncio.wait_for(running, 5)
    bench.sink.before_answer = None
    _, runner = bench.worker()
    bench.clock.pass_seconds(LEASE_SECONDS)
    await bench.settle(runner)
    assert bench.sink.states == ["ended", "ended"]
    assert bench.store.rows_by_key == {}


# --- replays and refusals ---------------------------------------------------------------------------------------------


async def test_the_latest_replay_counts() -> None:
    bench = Bench(sinks=[RecordingSink(answers=[RetryLater("c", "why")])])
    await bench.open(ended(Status.FAILED))
    await bench.settle()
    replay = ended(message_id="r-1", replay_of="m-1", since=NOW + timedelta(hours=1), fingerprint="f-2")
    await bench.open(replay)
    await bench.open(ended(Status.FAILED))  # the watch answers the original once more
    await bench.settle()
    assert [each.message_id for each in bench.sink.seen] == ["m-1", "r-1"]
    assert {each.request_id for each in bench.sink.seen} == {"m-1"}
    assert bench.store.rows_by_key == {}


@pytest.mark.parametrize(("is_new", "is_owner"), [(True, True), (False, False)])
async def test_a_refusal_may_change_only_what_the_request_itself_has_made(is_new: bool, is_owner: bool) -> None:
    bench = Bench(sinks=[RecordingSink(answers=[Delivered(is_new=is_new)])])
    await bench.open(owed())
    await bench.settle()
    assert not bench.sink.seen[0].is_owner
    await bench.open(ended(Status.REFUSED, is_owner=False))
    await bench.settle()
    assert bench.sink.seen[1].is_owner is is_owner


async def test_a_second_request_under_one_id_does_not_change_the_first_ones_delivery() -> None:
    bench = Bench(sinks=[RecordingSink(answers=[RetryLater("c", "why")])])
    await bench.open(ended())
    await bench.settle()
    await bench.open(ended(Status.REFUSED, is_owner=False, fingerprint="f-2"))
    found = await bench.record()
    assert found is not None
    assert found.fingerprint == "f-1"
