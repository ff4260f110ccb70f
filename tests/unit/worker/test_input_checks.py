"""Expensive checks of inputs: they end at their deadline, and hold up neither the event loop nor another sender."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import JsonValue

from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows import input_checks
from flow_worker.flows.check_usage import CheckUsage
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.registry import Flow, Registry
from flow_worker.flows.schema_worker import SchemaWorker
from flow_worker.settings import FlowSettings, InputCheckSettings

QUEUE = "flow-requests"
ENDLESS = "a" * 60 + "!"
BACKTRACKING: dict[str, Any] = {"type": "string", "pattern": "^(a+)+$"}
TREE: dict[str, Any] = {
    "oneOf": [
        {"type": "null"},
        *({"type": "array", "items": {"$ref": "#"}, "minItems": 1, "maxItems": 1, "title": str(n)} for n in range(8)),
    ]
}


def deep(levels: int) -> JsonValue:
    value: JsonValue = "neither null nor an array"
    for _ in range(levels):
        value = [value]
    return value


class Checks:
    """Checks of the flow `f`, and the flow."""

    def __init__(self, schema: dict[str, Any], lanes: int = 8, **settings: float) -> None:
        url = "https://x.logic.azure.com/y"
        flows = {"f": FlowSettings.model_validate({"url": url, "role": "r", "input_schema": schema})}
        self.flow: Flow = Registry(flows).find("f")
        self.checks = InputChecks(flows, InputCheckSettings.model_validate(settings), {QUEUE: lanes})

    async def code(self, value: JsonValue, sender: str = "ada") -> str | None:
        """Return the code of the refusal or postponement; None if the input is accepted."""
        try:
            await self.checks.require(self.flow, value, sender, QUEUE)
        except (Refused, TemporarilyUnavailable) as error:
            return error.code
        return None


@asynccontextmanager
async def checking(schema: dict[str, Any], lanes: int = 8, **settings: float) -> AsyncIterator[Checks]:
    made = Checks(schema, lanes, **settings)
    async with made.checks:
        yield made


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (BACKTRACKING, ENDLESS),
        ({"patternProperties": {"^(a+)+$": True}}, {ENDLESS: 1}),
        ({"propertyNames": {"pattern": "^(a+)+$"}}, {ENDLESS: 1}),
        ({"$defs": {"s": BACKTRACKING}, "items": {"$ref": "#/$defs/s"}}, ["a", ENDLESS]),
        (TREE, deep(40)),
    ],
)
async def test_an_endless_check_is_refused_at_its_deadline_while_the_loop_goes_on(
    schema: dict[str, Any], value: JsonValue
) -> None:
    async with checking(schema, deadline_seconds=0.3) as checks:
        longest = await _longest_pause(checks.code(value), expected="input_too_complex")
    assert longest < 0.25


async def _longest_pause(check: Any, *, expected: str | None) -> float:
    """Return the longest time for which a check kept the event loop busy."""
    task, longest, before = asyncio.create_task(check), 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    assert await task == expected
    return longest


async def test_a_process_checks_valid_and_invalid_inputs_one_after_the_other() -> None:
    async with checking(BACKTRACKING) as checks:
        assert await checks.code("aaa") is None
        with pytest.raises(Refused, match=r"'f': \$ fails 'pattern': \^\(a\+\)\+\$\.") as refusal:
            await checks.checks.require(checks.flow, "b-value-that-must-not-be-seen", "ada")
        assert refusal.value.code == "input_schema_mismatch"
        assert await checks.code("a") is None
        assert len(checks.checks._idle) == 1


async def test_a_cheap_check_needs_no_process() -> None:
    async with checking({"type": "object", "properties": {"n": {"type": "number"}}}) as checks:
        assert await checks.code({"n": 1}) is None
        assert await checks.code({"n": "one"}) == "input_schema_mismatch"
        assert not checks.checks._idle


async def test_a_large_input_is_checked_in_a_process_even_by_a_cheap_schema() -> None:
    async with checking({"items": {"type": "integer"}}) as checks:
        assert await checks.code([*range(20_000)]) is None
        assert await checks.code([*range(20_000), "x"]) == "input_schema_mismatch"
        assert len(checks.checks._idle) == 1


async def test_another_senders_check_does_not_wait_for_a_slow_one() -> None:
    async with checking(BACKTRACKING, deadline_seconds=30, wait_seconds=10) as checks:
        assert await checks.code("a", "bob") is None  # starts a process
        slow = [asyncio.create_task(checks.code(ENDLESS, "mallory")) for _ in range(8)]
        await asyncio.sleep(0)
        for _ in range(3):
            assert await asyncio.wait_for(checks.code("a", "bob"), 8) is None
        assert [task.done() for task in slow] == [False] + [True] * 7  # the others left their lanes meanwhile
        assert {task.result() for task in slow[1:]} == {"input_check_busy"}
        slow[0].cancel()
        await asyncio.wait(slow)


async def test_a_slow_senders_further_inputs_leave_their_lanes_at_once() -> None:
    async with checking(BACKTRACKING, deadline_seconds=0.3, wait_seconds=10) as checks:
        assert await checks.code(ENDLESS, "mallory") == "input_too_complex"
        running = asyncio.create_task(checks.code(ENDLESS, "mallory"))
        await asyncio.sleep(0)
        assert await checks.code(ENDLESS, "mallory") == "input_check_busy"
        assert await checks.code("a", "bob") is None
        assert await running == "input_too_complex"


async def test_all_slow_senders_together_have_one_process() -> None:
    async with checking(BACKTRACKING, deadline_seconds=0.3, wait_seconds=10) as checks:
        for name in ("mallory", "trudy"):
            assert await checks.code(ENDLESS, name) == "input_too_complex"
        running = asyncio.create_task(checks.code(ENDLESS, "mallory"))
        await asyncio.sleep(0)
        assert await checks.code("a", "trudy") == "input_check_busy"
        assert await checks.code("a", "bob") is None
        await running


async def test_first_long_checks_of_many_senders_leave_a_process_to_the_others() -> None:
    async with checking(BACKTRACKING, deadline_seconds=30, wait_seconds=30) as checks:
        assert await checks.code("a", "bob") is None  # starts a process
        names = [f"mallory-{number}" for number in range(4)]
        long = [asyncio.create_task(checks.code(ENDLESS, name)) for name in names]
        bounced: list[str | None] = []
        for check in asyncio.as_completed(long, timeout=20):
            bounced.append(await check)
            if len(bounced) == 3:
                break
        assert set(bounced) == {"input_check_busy"}, "and one of them goes on"
        for name in ("bob", "carol"):
            assert await asyncio.wait_for(checks.code("a", name), 20) is None
        assert sum(not task.done() for task in long) == 1
        for task in long:
            task.cancel()
        await asyncio.wait(long)


async def test_with_one_process_a_long_check_goes_on() -> None:
    async with checking(BACKTRACKING, deadline_seconds=1, processes=1, wait_seconds=10) as checks:
        assert await checks.code(ENDLESS, "mallory") == "input_too_complex"


async def test_a_request_that_finds_no_free_process_is_postponed() -> None:
    async with checking(BACKTRACKING, deadline_seconds=30, processes=1, wait_seconds=0.05) as checks:
        running = asyncio.create_task(checks.code(ENDLESS, "mallory"))
        await asyncio.sleep(0)
        assert await checks.code("a", "bob") == "input_check_busy"
        running.cancel()
        await asyncio.wait([running])
        assert await checks.code("a", "bob") is None


async def test_a_process_that_ended_between_two_checks_is_replaced() -> None:
    async with checking(BACKTRACKING) as checks:
        assert await checks.code("a") is None
        ended = checks.checks._idle[0]._process
        ended.kill()
        await ended.wait()
        assert await checks.code("a") is None


async def test_an_interrupted_check_ends_its_process() -> None:
    async with checking(BACKTRACKING, deadline_seconds=30) as checks:
        assert await checks.code("a") is None
        process = checks.checks._idle[0]._process
        running = asyncio.create_task(checks.code(ENDLESS))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert process.returncode is not None
        assert not checks.checks._idle


@pytest.mark.skipif(not hasattr(signal, "SIGKILL") or os.uname().sysname != "Linux", reason="only Linux limits memory")
async def test_a_check_that_needs_too_much_memory_is_refused() -> None:
    value: JsonValue = ["x" * 1000] * 500
    schema = {"anyOf": [{"maxItems": n} for n in range(400)]}  # each error quotes the input
    async with checking(schema, deadline_seconds=30, max_memory_bytes=64 * 1024 * 1024) as checks:
        assert await checks.code(value) == "input_too_complex"
        assert await checks.code([], "bob") is None


async def test_a_process_that_cannot_start_postpones_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    async with checking(BACKTRACKING) as checks:
        assert await checks.code("a") == "input_check_unavailable"


async def test_a_process_knows_no_secret_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_WORKER_SERVICEBUS__CONNECTION_STRING", "hush")
    process = await SchemaWorker.start({"f": True}, InputCheckSettings())
    try:
        if os.path.exists("/proc/self/environ"):
            with open(f"/proc/{process._process.pid}/environ", "rb") as environment:
                assert b"hush" not in environment.read()
    finally:
        await process.end()


class GatedProcess:
    """Checks an input when its gate opens."""

    gate: asyncio.Event

    async def fault(self, flow: str, value: JsonValue) -> None:
        await self.gate.wait()

    async def end(self) -> None:
        pass


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Opens the processes that check inputs."""
    opened = GatedProcess.gate = asyncio.Event()

    async def start(*_: object) -> GatedProcess:
        return GatedProcess()

    monkeypatch.setattr(SchemaWorker, "start", start)
    return opened


async def held(checks: Checks, senders: list[str], gate: asyncio.Event) -> int:
    """Return how many of these senders' checks still hold lanes after the patience of the others."""
    tasks = [asyncio.create_task(checks.code("a", sender)) for sender in senders]
    await asyncio.wait(tasks, timeout=0.3)
    count = sum(not task.done() for task in tasks)
    gate.set()
    assert {await task for task in tasks} <= {None, "input_check_busy"}
    gate.clear()
    return count


async def test_only_the_running_check_of_a_sender_holds_a_lane(gate: asyncio.Event) -> None:
    async with checking(BACKTRACKING, lanes=64, processes=8, wait_seconds=60) as checks:
        assert await held(checks, ["eve"] * 60, gate) == 1


@pytest.mark.parametrize(("lanes", "most"), [(1, 1), (2, 2), (4, 2), (8, 2), (32, 8)])
async def test_checks_of_many_senders_hold_a_quarter_of_the_lanes(lanes: int, most: int, gate: asyncio.Event) -> None:
    async with checking(BACKTRACKING, lanes=lanes, processes=2, wait_seconds=60) as checks:
        assert await held(checks, [f"sender {n}" for n in range(60)], gate) == most


async def test_a_request_behind_a_long_check_leaves_its_lane_at_once(gate: asyncio.Event) -> None:
    async with checking(BACKTRACKING, wait_seconds=60) as checks:
        running = asyncio.create_task(checks.code("a", "eve"))
        await asyncio.wait([running], timeout=0.15)
        began = asyncio.get_running_loop().time()
        for _ in range(200):
            assert await checks.code("a", "eve") == "input_check_busy"
        assert asyncio.get_running_loop().time() - began < 1
        gate.set()
        assert await running is None


async def test_short_checks_of_one_sender_take_turns_in_their_lanes(gate: asyncio.Event) -> None:
    gate.set()
    async with checking(BACKTRACKING) as checks:
        assert await asyncio.gather(*(checks.code("a") for _ in range(8))) == [None] * 8


async def test_a_start_that_hangs_holds_few_lanes_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_checks, "_START_PATIENCE_SECONDS", 0.05)
    GatedProcess.gate = asyncio.Event()
    GatedProcess.gate.set()
    started, starts = asyncio.Event(), 0

    async def start(*_: object) -> GatedProcess:
        nonlocal starts
        starts += 1
        await started.wait()
        return GatedProcess()

    monkeypatch.setattr(SchemaWorker, "start", start)
    async with checking(BACKTRACKING) as checks:
        for _ in range(3):
            assert await checks.code("a") == "input_check_busy"
        started.set()
        assert await checks.code("a") is None
        assert starts == 1


def test_seconds_of_checks_make_a_sender_slow_and_time_frees_it() -> None:
    now = 0.0
    usage = CheckUsage(lambda: now)
    for _ in range(3):
        usage.add("eve", 0.8)
        now += 0.8
    assert usage.is_slow("eve")
    for _ in range(1000):  # 100 checks a second of 2 ms each
        usage.add("honest", 0.002)
        now += 0.01
    assert not usage.is_slow("honest")
    usage.add("eve", 10_000)
    now += 61
    assert not usage.is_slow("eve")
    usage.exceed("eve")
    usage.add("eve", 0.1)
    now += 500
    assert usage.is_slow("eve")


def test_usage_forgets_those_who_used_the_least() -> None:
    usage = CheckUsage(lambda: 0.0)
    usage.add("eve", 30)
    for number in range(10_000):
        usage.add(f"sender {number}", 0.01)
    assert len(usage) <= 4096
    assert usage.is_slow("eve")
