"""Privilege queries over HTTP against the Dataverse emulator, with a managed-identity token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from flow_worker.access.privileges import DataversePrivileges, PrivilegeCacheTimes
from flow_worker.access.user import User
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.dataverse.client import DataverseClient
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.invoker import http_client
from flow_worker.flows.privilege import Depth
from tests.support.system import JsonObject, System, running_system

PRIVILEGE = "prvCreatenew_quote"
CACHE_TIMES = PrivilegeCacheTimes(held=300, missing=30)


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
async def privileges_of(
    system: System, now: Callable[[], datetime], *, request_seconds: float = 2
) -> AsyncIterator[DataversePrivileges]:
    url = system.emulator.web.dataverse_url
    async with (
        ManagedIdentity(client_id=None, deadline_seconds=10) as identity,
        http_client(connect_seconds=2, max_connections=8, keepalive_seconds=15) as client,
    ):
        tokens = identity.tokens(f"{url}/.default")
        web_api = DataverseClient(client, url, tokens, request_seconds=request_seconds, now=now)
        yield DataversePrivileges(web_api, CACHE_TIMES, max_concurrent_queries=4, now=now)


async def person(system: System, name: str) -> tuple[User, User]:
    """Return a user by the object ID, and the same user by the Dataverse row."""
    async with httpx.AsyncClient() as client:
        users = (await client.get(f"{system.emulator.web.url}/emulator/dataverse")).json()["users"]
    found = next(user for user in users if user["name"] == name)
    return User(found["object_id"]), User(None, found["system_user_id"])


def queries(system: System) -> list[dict[str, object]]:
    return system.emulator.web.dataverse.calls()


async def inject(system: System, *faults: JsonObject) -> None:
    await system.put("dataverse", {"faults": list(faults)})


@pytest.mark.parametrize("by_row", [False, True])
async def test_own_roles_and_team_roles_both_grant_a_privilege(system: System, clock: Clock, by_row: bool) -> None:
    async with privileges_of(system, clock) as privileges:
        held = {
            name: await privileges.depth((await person(system, name))[by_row], PRIVILEGE)
            for name in ("ada", "grace", "bob")
        }
    assert held == {"ada": Depth.LOCAL, "grace": Depth.BASIC, "bob": None}
    assert not any(query["forbidden"] for query in queries(system))


async def test_an_unknown_user_holds_no_privilege(system: System, clock: Clock) -> None:
    nobody = "99999999-0000-0000-0000-000000000009"
    async with privileges_of(system, clock) as privileges:
        assert await privileges.depth(User(nobody), PRIVILEGE) is None
        assert await privileges.depth(User(None, nobody), PRIVILEGE) is None
        await system.put("dataverse", {"unknown_object_id": "not_found"})
        clock.advance(31)
        assert await privileges.depth(User(nobody), PRIVILEGE) is None


async def test_an_answer_is_cached_for_its_time_and_no_longer(system: System, clock: Clock) -> None:
    async with privileges_of(system, clock) as privileges:
        ada, bob = (await person(system, "ada"))[0], (await person(system, "bob"))[0]
        for _ in range(3):
            await privileges.depth(ada, PRIVILEGE)
            await privileges.depth(bob, PRIVILEGE)
        assert len(queries(system)) == 2
        clock.advance(31)  # a missing privilege is cached for a shorter time than a held one
        await privileges.depth(ada, PRIVILEGE)
        await privileges.depth(bob, PRIVILEGE)
        assert len(queries(system)) == 3
        clock.advance(270)
        await privileges.depth(ada, PRIVILEGE)
        assert len(queries(system)) == 4


async def test_concurrent_callers_share_one_query(system: System, clock: Clock) -> None:
    ada = (await person(system, "ada"))[0]
    async with privileges_of(system, clock) as privileges:
        depths = await asyncio.gather(*(privileges.depth(ada, PRIVILEGE) for _ in range(20)))
        assert set(depths) == {Depth.LOCAL}
        assert len(queries(system)) == 1


async def test_a_cancelled_caller_does_not_cancel_the_query_of_the_others(system: System, clock: Clock) -> None:
    ada = (await person(system, "ada"))[0]
    await inject(system, {"kind": "delay", "delay_seconds": 0.3})
    async with privileges_of(system, clock) as privileges:
        first = asyncio.create_task(privileges.depth(ada, PRIVILEGE))
        second = asyncio.create_task(privileges.depth(ada, PRIVILEGE))
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
async def test_a_fault_is_neither_a_yes_nor_a_no_and_the_next_query_succeeds(
    system: System, clock: Clock, fault: JsonObject
) -> None:
    ada = (await person(system, "ada"))[0]
    await inject(system, fault)
    async with privileges_of(system, clock, request_seconds=0.5) as privileges:
        with pytest.raises(TemporarilyUnavailable) as reason:
            await privileges.depth(ada, PRIVILEGE)
        if fault.get("retry_after"):
            assert reason.value.until == clock.now + timedelta(seconds=7)
            with pytest.raises(TemporarilyUnavailable):
                await privileges.depth((await person(system, "bob"))[0], PRIVILEGE)
            assert len(queries(system)) == 1, "a throttled worker must pause every query"
        await inject(system)
        clock.advance(8)
        assert await privileges.depth(ada, PRIVILEGE) is Depth.LOCAL


async def test_a_refused_token_is_renewed_once(system: System, clock: Clock) -> None:
    ada = (await person(system, "ada"))[0]
    await inject(system, {"kind": "DirectApiAuthorizationRequired", "next_calls": 1})
    async with privileges_of(system, clock) as privileges:
        assert await privileges.depth(ada, PRIVILEGE) is Depth.LOCAL
        await inject(system, {"kind": "DirectApiAuthorizationRequired"})
        clock.advance(301)
        with pytest.raises(TemporarilyUnavailable):
            await privileges.depth(ada, PRIVILEGE)
        assert len(queries(system)) == 4


async def test_an_identity_without_application_user_is_named_in_the_error(system: System, clock: Clock) -> None:
    await system.put("dataverse", {"application_users": []})
    async with privileges_of(system, clock) as privileges:
        with pytest.raises(TemporarilyUnavailable, match="application user"):
            await privileges.depth((await person(system, "ada"))[0], PRIVILEGE)
