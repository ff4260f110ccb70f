"""The worker opens deliveries for proven senders only, and once for each state. No failure of it reaches a request."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from flow_contracts.result import FlowResult, Status
from flow_worker.access.principal import Principal
from flow_worker.delivery import opening
from flow_worker.delivery.opening import DeliveryOpener, Routes, named_by
from flow_worker.delivery.outbox import DeliveryOutbox, Held
from flow_worker.delivery.owed import Owed, key_of
from flow_worker.delivery.port import Asker, Delivery
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.outcome import JournalledResult, Reply
from tests.support.deliveries import ADA, job
from tests.support.outbox import NOW, RETENTION, Clock, MemoryOutbox, RecordingSink, result

pytestmark = pytest.mark.asyncio
KEY = SecretStr("the-reply-key-of-the-sender-must-not-be-lost-000")


class Settler(RecordingSink):
    """A sink that publishes another result later."""

    needs_reply_target = True

    def wants(self, delivery: Delivery) -> bool:
        return delivery.result is not None and delivery.result.status is Status.UNKNOWN


@dataclass
class Bench:
    store: MemoryOutbox = field(default_factory=MemoryOutbox)
    clock: Clock = field(default_factory=Clock)
    sinks: tuple[RecordingSink, ...] = (RecordingSink("row"), RecordingSink("bell", wanted=frozenset({"ended"})))
    always: tuple[RecordingSink, ...] = ()
    offered: list[Owed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = DeliveryOutbox(self.store, retention=RETENTION, deadline_seconds=5, now=self.clock.now)
        routes = Routes(named_by({"flow-requests": ("row", "bell")}, {"quiet": ()}), self.sinks, self.always)
        self.opener = DeliveryOpener(self.outbox, self.clock.now, routes, offer=self._offer)

    def _offer(self, held: Any) -> None:
        self.offered += [each.owed for each in held if isinstance(each, Held)]

    async def records(self) -> list[Owed]:
        return [each async for each in self.outbox.all()]


def reply(of: Job | None, found: FlowResult | None = None, **changes: Any) -> Reply:
    one = of or job()
    journalled = JournalledResult(one.message_id, one.origin)
    return Reply(found or result(), one.address, "flow-replies", **{"journalled": journalled, "job": of} | changes)


async def test_an_admitted_request_opens_what_the_sinks_want() -> None:
    bench = Bench()
    await bench.opener.admitted(job())
    [owed] = await bench.records()
    assert (owed.sink, owed.state, owed.is_owner, owed.due) == ("row", "pending", False, NOW)
    assert bench.offered == [owed]
    operations = bench.store.operations
    await bench.opener.admitted(job())
    assert bench.store.operations == operations  # the same process opens nothing twice


@pytest.mark.parametrize(
    "changes",
    [{"kind": "poll"}, {"calls": 1}, {"principal": None}, {"flow": "quiet"}, {"request_queue": "another"}],
    ids=str,
)
async def test_nothing_opens_without_a_sink_a_proof_or_before_another_call(changes: dict[str, Any]) -> None:
    bench = Bench()
    await bench.opener.admitted(job(**changes))
    assert bench.store.operations == 0


async def test_a_published_reply_opens_its_end_for_every_sink() -> None:
    bench = Bench()
    await bench.opener.admitted(job())
    whole = result(output="the quote")
    await bench.opener.published(reply(job(), whole))
    records = {owed.sink: owed for owed in await bench.records()}
    assert {sink: (owed.state, owed.is_owner) for sink, owed in records.items()} == {
        "row": ("ended", True),
        "bell": ("ended", True),
    }
    assert all(owed.result is not None and owed.result.output is None for owed in records.values())
    assert all(owed.reply is None for owed in records.values())
    assert [owed.sink for owed in bench.offered] == ["row", "row", "bell"]


@pytest.mark.parametrize(
    "changes", [{"job": None}, {"job": job(principal=None)}, {"is_unproven": True}, {"of_stranger": True}], ids=str
)
async def test_a_reply_to_an_unproven_sender_opens_nothing(changes: dict[str, Any]) -> None:
    bench = Bench()
    await bench.opener.published(reply(job(), **changes))
    assert bench.store.operations == 0


async def test_a_refusal_without_an_entry_does_not_own_its_message_id() -> None:
    bench = Bench()
    await bench.opener.published(reply(job(), result(Status.REFUSED), journalled=None))
    assert {owed.is_owner for owed in await bench.records()} == {False}


@pytest.mark.parametrize(
    ("changes", "asker"),
    [
        ({}, Asker("tenant", "ada")),
        ({"on_behalf_of": "bob"}, Asker("tenant", "bob")),
        ({"oid": "", "system_user": "row-1"}, Asker("tenant", None, "row-1")),
        ({"system_user": "row-1"}, Asker("tenant", "ada")),
        ({"oid": "", "system_user": "row-1", "on_behalf_of": "bob"}, Asker("tenant", "bob")),
    ],
    ids=str,
)
async def test_the_asker_is_the_user_for_whom_the_flow_runs(changes: dict[str, Any], asker: Asker) -> None:
    bench = Bench()
    principal: Principal = replace(ADA, **changes)
    await bench.opener.admitted(job(principal=principal))
    assert [owed.asker for owed in await bench.records()] == [asker]


async def test_another_asker_with_the_same_message_id_has_a_record_of_its_own() -> None:
    bench = Bench()
    await bench.opener.published(reply(job()))
    stranger = job(principal=replace(ADA, oid="eve"))
    await bench.opener.published(reply(stranger, result(Status.REFUSED), journalled=None))
    ada = key_of("row", "m-1", Asker("tenant", "ada"))
    found = await bench.outbox.find(ada)
    assert found is not None
    assert found.result == result()
    assert len(await bench.records()) == 4


async def test_a_replay_has_the_record_of_its_request() -> None:
    bench = Bench()
    await bench.opener.published(reply(job(), result(Status.FAILED)))
    replay = job(message_id="r-1", replay_of="m-1", origin="replay:1", replayed=NOW + timedelta(hours=1))
    await bench.opener.published(reply(replay, result(message_id="r-1")))
    records = await bench.records()
    assert {owed.message_id for owed in records} == {"r-1"}
    assert len(records) == 2


async def test_the_end_is_written_later_if_the_outbox_is_down(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.store.is_down = True
    with caplog.at_level(logging.WARNING):
        await bench.opener.admitted(job())
        for number in range(300):
            await bench.opener.published(reply(job(message_id=f"m-{number}", origin=f"o-{number}")))
    events = [record.__dict__.get("event") for record in caplog.records]
    assert events == ["outbox.write_failed"]
    bench.store.is_down = False
    await bench.opener.repeat()
    assert len(await bench.records()) == 600
    operations = bench.store.operations
    await bench.opener.repeat()
    assert bench.store.operations == operations


async def test_a_silent_outbox_costs_one_request_a_second_and_the_next_ones_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "_WRITE_SECONDS", 0.05)
    bench = Bench()
    silent = asyncio.Event()

    async def wait(*_: Any) -> None:
        await silent.wait()

    monkeypatch.setattr(bench.store, "write", wait)
    for number in range(100):
        one = job(message_id=f"m-{number}", origin=f"o-{number}")
        async with asyncio.timeout(2):
            await bench.opener.admitted(one)
            await bench.opener.published(reply(one))
    monkeypatch.undo()
    await bench.opener.repeat()
    assert len(await bench.records()) == 200


async def test_an_error_of_a_sink_does_not_reach_the_request(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(RecordingSink):
        def wants(self, delivery: Delivery) -> bool:
            raise ZeroDivisionError

    bench = Bench(sinks=(Broken("row"),))
    await bench.opener.admitted(job())
    await bench.opener.published(reply(job()))
    assert {record.__dict__.get("event") for record in caplog.records} == {"delivery.internal_error"}


async def test_settling_opens_the_other_sinks_again() -> None:
    bench = Bench(always=(Settler("settle"),))
    unknown = result(Status.UNKNOWN)
    with_key = job(reply_key=KEY)
    await bench.opener.published(reply(with_key, unknown))
    [own] = [owed for owed in await bench.records() if owed.sink == "settle"]
    target = own.delivery(unknown).reply
    assert target is not None
    assert (target.queue, target.session_id, target.reply_key) == ("flow-replies", "c-1", KEY)
    assert KEY.get_secret_value() not in repr(own)
    for _ in range(2):  # a repetition does no harm
        await bench.opener.settled(own.delivery(unknown), result(Status.SUCCEEDED))
    found = {owed.sink: owed for owed in await bench.records()}
    assert found["row"].state == "settled"
    assert found["row"].result == result(Status.SUCCEEDED)
    assert found["row"].reply is None
    assert found["bell"].state == "ended"  # it does not want the new state
    assert found["settle"] == own


SETTLED = result().model_copy(update={"settled_by": "flow_run"})
REPLAY: dict[str, Any] = {"message_id": "replay-1", "replay_of": "m-1", "replayed": NOW + timedelta(hours=1)}


@pytest.mark.parametrize(
    ("opens", "is_replaced"),
    [("nothing", True), ("pending", False), ("ended", False), ("refusal", True)],
)
async def test_a_late_settlement_replaces_nothing_that_a_sink_has_of_a_replay(opens: str, is_replaced: bool) -> None:
    bench = Bench(always=(Settler("settle"),))
    await bench.opener.published(reply(job(), result(Status.UNKNOWN)))
    [own] = [each for each in await bench.records() if each.sink == "settle"]
    replay = job(**REPLAY)
    if opens == "pending":
        await bench.opener.admitted(replay)
    elif opens == "ended":
        await bench.opener.published(reply(replay))
    elif opens == "refusal":  # it creates rows only, and there is one
        await bench.opener.published(reply(replay, result(Status.REFUSED), journalled=None))
    for each in await bench.records():
        if each.sink != "settle":  # the sinks have it
            bench.store.rows_by_key.pop(each.key)
    bench.opener = DeliveryOpener(bench.outbox, bench.clock.now, bench.opener.routes, offer=bench.opener.offer)
    await bench.opener.settled(own.delivery(None), SETTLED)
    opened = {each.sink for each in await bench.records() if each.state == "settled"}
    assert opened == ({"row"} if is_replaced else set())


async def test_a_refusal_that_waits_to_be_written_does_not_take_the_place_of_the_result() -> None:
    bench = Bench()
    bench.store.is_down = True
    await bench.opener.published(reply(job()))
    await bench.opener.published(reply(job(input_hash="other"), result(Status.REFUSED), journalled=None))
    bench.store.is_down = False
    await bench.opener.repeat()
    assert {(each.is_owner, each.result and each.result.status) for each in await bench.records()} == {
        (True, Status.SUCCEEDED)
    }
