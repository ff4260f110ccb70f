"""What the worker asks Dataverse, and what it makes of the answers: over HTTP, with a managed-identity token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from flow_worker.access.dataverse import Dataverse, Patience
from flow_worker.access.privilege import Depth
from flow_worker.access.user import User
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.invoker import http_client
from tests.support.system import JsonObject, System, running_system

PRIVILEGE = "prvCreatenew_quote"
PATIENCE = Patience(held=300, missing=30, request=2)


@dataclass
class Clock:
    now: datetime = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
async def system(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    async with running_system(monkeypatch) as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def asking(
    system: System, now: Callable[[], datetime], patience: Patience = PATIENCE
) -> AsyncIterator[Dataverse]:
    url = system.emulator.web.dataverse_url
    async with (
        ManagedIdentity(client_id=None, deadline_seconds=10) as identity,
        http_client(connect_seconds=2, max_connections=8, keepalive_seconds=15) as client,
    ):
        yield Dataverse(client, url, identity.tokens(f"{url}/.default"), patience, concurrent=4, now=now)


async def person(system: System, name: str) -> tuple[User, User]:
    """A user by object ID, and by the row."""
    async with httpx.AsyncClient() as client:
        users = (await client.get(f"{system.emulator.web.url}/emulator/dataverse")).json()["users"]
    one = next(user for user in users if user["name"] == name)
    return User(one["object_id"]), User(None, one["system_user_id"])


def asked(system: System) -> list[dict[str, object]]:
    return system.emulator.web.dataverse.calls()


async def trouble(system: System, *faults: JsonObject) -> None:
    await system.put("dataverse", {"faults": list(faults)})


@pytest.mark.parametrize("by_row", [False, True])
async def test_privileges_count_by_own_and_by_team_roles(system: System, clock: Clock, by_row: bool) -> None:
    async with asking(system, clock) as dataverse:
        held = {
            name: await dataverse.depth((await person(system, name))[by_row], PRIVILEGE)
            for name in ("ada", "grace", "bob")
        }
    assert held == {"ada": Depth.LOCAL, "grace": Depth.BASIC, "bob": None}
    assert not any(question["forbidden"] for question in asked(system))


async def test_somebody_unknown_holds_nothing(system: System, clock: Clock) -> None:
    nobody = "99999999-0000-0000-0000-000000000009"
    async with asking(system, clock) as dataverse:
        assert await dataverse.depth(User(nobody), PRIVILEGE) is None
        assert await dataverse.depth(User(None, nobody), PRIVILEGE) is None
        await system.put("dataverse", {"unknown_object_id": "not_found"})
        clock.advance(31)
        assert await dataverse.depth(User(nobody), PRIVILEGE) is None


async def test_an_answer_is_believed_for_its_time_and_no_longer(system: System, clock: Clock) -> None:
    async with asking(system, clock) as dataverse:
        ada, bob = (await person(system, "ada"))[0], (await person(system, "bob"))[0]
        for _ in range(3):
            await dataverse.depth(ada, PRIVILEGE)
            await dataverse.depth(bob, PRIVILEGE)
        assert len(asked(system)) == 2
        clock.advance(31)  # a no is believed for a shorter time than a yes
        await dataverse.depth(ada, PRIVILEGE)
        await dataverse.depth(bob, PRIVILEGE)
        assert len(asked(system)) == 3
        clock.advance(270)
        await dataverse.depth(ada, PRIVILEGE)
        assert len(asked(system)) == 4


async def test_the_same_question_is_asked_once_however_many_ask(system: System, clock: Clock) -> None:
    ada = (await person(system, "ada"))[0]
    async with asking(system, clock) as dataverse:
        depths = await asyncio.gather(*(dataverse.depth(ada, PRIVILEGE) for _ in range(20)))
        assert set(depths) == {Depth.LOCAL}
        assert len(asked(system)) == 1


async def test_one_who_goes_away_does_not_take_the_answer_from_the_others(system: System, clock: Clock) -> None:
    ada = (await person(system, "ada"))[0]
    await trouble(system, {"kind": "delay", "delay_seconds": 0.3})
    async with asking(system, clock) as dataverse:
        first = asyncio.create_task(dataverse.depth(ada, PRIVILEGE))
        second = asyncio.create_task(dataverse.depth(ada, PRIVILEGE))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is Depth.LOCAL
    assert first.cancelled()


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "throttle", "retry_after": None},
        {"kind": "throttle", "retry_after": "7"},
        {"kind": "html", "status": 502},
        {"kind": "html", "status": 200},
        {"kind": "html", "status": 404},
        {"kind": "hang"},
        {"kind": "reset_after_reading"},
        {"kind": "close_midway"},
        {"kind": "invalid_json"},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
async def test_trouble_is_neither_yes_nor_no_and_heals(system: System, clock: Clock, fault: JsonObject) -> None:
    ada = (await person(system, "ada"))[0]
    await trouble(system, fault)
    async with asking(system, clock, Patience(held=300, missing=30, request=0.5)) as dataverse:
        with pytest.raises(TemporarilyUnavailable) as reason:
            await dataverse.depth(ada, PRIVILEGE)
        if fault.get("retry_after"):
            assert reason.value.until == clock.now + timedelta(seconds=7)
            with pytest.raises(TemporarilyUnavailable):
                await dataverse.depth((await person(system, "bob"))[0], PRIVILEGE)
            assert len(asked(system)) == 1, "it asked for fewer questions, and gets none"
        await trouble(system)
        clock.advance(8)
        assert await dataverse.depth(ada, PRIVILEGE) is Depth.LOCAL


async def test_a_refused_token_is_fetched_anew_once(system: System, clock: Clock) -> None:
    ada = (await person(system, "ada"))[0]
    await trouble(system, {"kind": "DirectApiAuthorizationRequired", "next_calls": 1})
    async with asking(system, clock) as dataverse:
        assert await dataverse.depth(ada, PRIVILEGE) is Depth.LOCAL
        await trouble(system, {"kind": "DirectApiAuthorizationRequired"})
        clock.advance(301)
        with pytest.raises(TemporarilyUnavailable):
            await dataverse.depth(ada, PRIVILEGE)
        assert len(asked(system)) == 4


async def test_an_identity_that_is_no_user_there_is_told_so(system: System, clock: Clock) -> None:
    await system.put("dataverse", {"application_users": []})
    async with asking(system, clock) as dataverse:
        with pytest.raises(TemporarilyUnavailable, match="application user"):
            await dataverse.depth((await person(system, "ada"))[0], PRIVILEGE)
