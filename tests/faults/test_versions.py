"""Workers of two versions share the queues and the journal: each request has one right result, and runs its flow once.

Continuations and journal entries cross between an earlier or a later version and this one, in an upgrade, a rollback
and side by side. Versions before the seal write continuations without one.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.other_version import THIS, NoSuchVersion, Version, earlier, newer, running
from tests.support.system import JsonObject, System, until, worker_settings

LAST_WITH_STRICT_CONTINUATIONS = "545bafd"
"""It reads continuations strictly: one unknown field, and it dead-letters the request without an answer."""
REQUESTS = 8
"""For each flow."""
LANES = 2
"""Of each worker. Its first calls are throttled, and the flow's pause lets the other requests wait."""
SECONDS = 150.0

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(params=["HEAD~1", LAST_WITH_STRICT_CONTINUATIONS])
def previous(request: pytest.FixtureRequest, tmp_path: Path) -> Version:
    folder = tmp_path / "source"
    folder.mkdir()
    try:
        return earlier(request.param, folder)
    except NoSuchVersion as missing:
        pytest.skip(str(missing))


async def test_an_upgrade_and_a_rollback_lose_and_repeat_nothing(system: System, previous: Version) -> None:
    # No worker of the previous version is left that could take the continuations that no journal proves.
    await hand_over(system, previous, THIS, unsealed="accept")
    await hand_over(system, THIS, previous)


async def test_the_previous_version_beside_this_one_loses_and_repeats_nothing(
    system: System, previous: Version
) -> None:
    await side_by_side(system, previous, THIS)


async def test_fields_of_a_later_version_lose_and_repeat_nothing(system: System) -> None:
    await hand_over(system, newer("fields"), THIS)
    await hand_over(system, THIS, newer("fields"))


@pytest.mark.parametrize("changes", [("fields",), ("kind",), ("contract", "fields")], ids=str)
async def test_a_later_version_beside_this_one_loses_and_repeats_nothing(
    system: System, changes: tuple[str, ...]
) -> None:
    await side_by_side(system, newer(*changes), THIS)


@pytest.mark.parametrize("change", ["kind", "contract"])
async def test_after_a_rollback_unreadable_continuations_end_unknown(system: System, change: str) -> None:
    await let_flows_wait(system)
    sent = await begin_with(system, newer(change))
    async with running(THIS, settings_of(system, unreadable_seconds=2), system.folder, environment_of(system)):
        results = await results_of(system, len(sent))
    assert sorted(result["correlation_id"] for result in results) == sorted(sent)
    unknown = [result for result in results if result["status"] == "unknown"]
    assert len(unknown) >= len(sent) / 2
    assert {result["error"]["code"] for result in unknown} == {"continuation_unreadable"}
    assert {result["status"] for result in results} <= {"unknown", "succeeded"}
    assert set(Counter(await effects(system)).values()) == {1}
    assert system.depth("dead_lettered", "flow-continuations") == len(unknown), "an operator can inspect each"


# --- the three ways --------------------------------------------------------------------------------------------------


async def hand_over(system: System, first: Version, second: Version, **continuations: object) -> None:
    """Let one version begin all requests, and another one with the settings `continuations` end them."""
    await let_flows_wait(system)
    before = len(await results_of(system, 0))
    sent = await begin_with(system, first)
    async with running(second, settings_of(system, **continuations), system.folder, environment_of(system)):
        await check(system, sent, await results_of(system, before + len(sent)))


async def side_by_side(system: System, one: Version, other: Version) -> None:
    """Let two versions share all requests, with several continuations for each."""
    await let_flows_wait(system, retry_after="1")
    async with (
        running(one, settings_of(system), system.folder, environment_of(system)) as log,
        running(other, settings_of(system), system.folder, environment_of(system)) as other_log,
    ):
        for _ in range(3):
            before = len(await results_of(system, 0))
            sent = await submit(system)
            await check(system, sent, await results_of(system, before + len(sent)))
    for each in (log, other_log):
        text = each.read_text(encoding="utf-8")
        assert "[request.completed " in text, text
        assert "[request.rescheduled " in text, text


async def begin_with(system: System, version: Version) -> list[str]:
    """Submit requests, and stop their worker once each waits for its next step. Return the correlation IDs."""
    async with running(version, settings_of(system), system.folder, environment_of(system)):
        sent = await submit(system)
        await until(lambda: system.depth("active") == 0, SECONDS)
    # On a slow machine the first version takes some steps of its own while it stops.
    assert system.depth("scheduled", "flow-continuations") >= len(sent) / 2, "the second version must take next steps"
    return sent


# --- requests and results --------------------------------------------------------------------------------------------

_counted = iter(range(1_000_000))


async def let_flows_wait(system: System, retry_after: str = "10") -> None:
    """Let one flow throttle its next calls, and let the other one run long."""
    throttled: list[JsonObject] = [{"kind": "throttle", "retry_after": retry_after, "next_calls": LANES}]
    asynchronous = {"done_after_polls": 1, "retry_after": retry_after}
    await system.put("flows/create-quote", {"faults": throttled, "input_schema": None, "response": {"echo": True}})
    await system.put("flows/slow-report", {"asynchronous": asynchronous, "response": {"echo": True}})


def settings_of(system: System, **continuations: object) -> JsonObject:
    settings = worker_settings(system.emulator, system.flows)
    return settings | {
        "journal": {"path": str(system.folder / "journal.sqlite3")},
        "request_queues": [{"name": "flow-requests", "lanes": LANES}],
        "continuations": {"lanes": LANES} | continuations,
    }


def environment_of(system: System) -> dict[str, str]:
    return system.emulator.web.environment()


async def submit(system: System) -> list[str]:
    claim = system.claim()
    async with system.client() as client:
        return [
            await client.submit(flow, {"n": next(_counted)}, claim=claim)
            for flow in ("create-quote", "slow-report")
            for _ in range(REQUESTS)
        ]


async def results_of(system: System, count: int) -> list[JsonObject]:
    """Return the last results in the reply queue once it has `count` messages. No client reads it and drops copies."""
    replies = system.emulator.broker.find("flow-replies")
    await until(lambda: len(replies.peek(0, 1000, None)) >= count, SECONDS)
    bodies = [message.body for message in replies.peek(0, 1000, None)]
    return [json.loads(found[0]) for body in bodies if (found := re.search(rb"\{\".*\}", body, re.DOTALL))]


async def effects(system: System) -> list[str]:
    """Return the input of each run that began."""
    calls = [*await system.calls("create-quote"), *await system.calls("slow-report")]
    return [json.dumps(call["body"]) for call in calls if call["effect"]]


async def check(system: System, sent: list[str], results: list[JsonObject]) -> None:
    """Check that each request has one right result and ran its flow once, and that nothing is left."""
    queues = ("flow-requests", "flow-continuations")
    await until(
        lambda: not any(system.depth(state, queue) for queue in queues for state in ("active", "scheduled")), SECONDS
    )
    await asyncio.sleep(0.5)  # a worker that is wrong publishes once more
    counted = Counter(result["correlation_id"] for result in await results_of(system, len(results)))
    assert {counted[one] for one in sent} == {1}
    assert set(counted.values()) == {1}
    assert {result["status"] for result in results} == {"succeeded"}
    assert set(Counter(await effects(system)).values()) == {1}
    assert len(await effects(system)) == len(results)
    for queue in queues:
        assert system.depth("dead_lettered", queue) == 0
