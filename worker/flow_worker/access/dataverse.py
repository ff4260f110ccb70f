"""Asks Dataverse which privileges a user holds.

`RetrieveAadUserSetOfPrivilegesByNames` goes by the Entra object ID, `RetrieveUserPrivilegeByPrivilegeName` by the row
of the user; both count team roles (Microsoft Learn, Web API function reference). A user is never looked up by the
alternate key `azureactivedirectoryobjectid`, since a GET by it can create the user.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import httpx

from flow_worker.access.privilege import NAME, Depth
from flow_worker.access.user import User
from flow_worker.clock import retry_after
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.invoker import TokenSource

_NO_SUCH_USER = "0x80040217"
"""The error code of Dataverse for a row that does not exist; any other 404 is a wrong address."""
_NO_DEPTH = (4, "RecordFilter")
"""A privilege by a filter over records reaches no business unit (Microsoft Learn, `PrivilegeDepth`)."""
_MAX_SAID = 10_000
_MAX_HELD = 10_000
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How long Dataverse's answers are believed, and how long it has to give one; in seconds."""

    held: float
    missing: float
    request: float


@dataclass(frozen=True, slots=True)
class _Known:
    depth: Depth | None
    until: datetime


class Dataverse:
    """One organisation. Questions for the same user and privilege are asked once, however many ask."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        tokens: TokenSource,
        patience: Patience,
        *,
        concurrent: int,
        now: Callable[[], datetime],
    ) -> None:
        """`url`: the organisation's, without a slash. `concurrent`: questions at a time; Dataverse bears 52."""
        self._client = client
        self._api = f"{url}/api/data/v9.2"
        self._tokens = tokens
        self._patience = patience
        self._slots = asyncio.Semaphore(concurrent)
        self._now = now
        self._known: dict[tuple[User, str], _Known] = {}
        self._asked: dict[tuple[User, str], asyncio.Task[Depth | None]] = {}
        self._quiet_until: datetime | None = None

    async def depth(self, user: User, privilege: str) -> Depth | None:
        """How far the user's privilege reaches; None: the user does not hold it. Raises `TemporarilyUnavailable`."""
        question = user, privilege
        known = self._known.get(question)
        if known is not None and self._now() < known.until:
            return known.depth
        task = self._asked.get(question)
        if task is None:
            task = self._asked[question] = asyncio.ensure_future(self._learn(user, privilege))
            task.add_done_callback(lambda done: self._done(question, done))
        return await asyncio.shield(task)

    def _done(self, question: tuple[User, str], task: asyncio.Task[Depth | None]) -> None:
        del self._asked[question]
        if not task.cancelled():
            task.exception()  # whoever asked has it; if all of them went away, nobody needs to be told

    async def _learn(self, user: User, privilege: str) -> Depth | None:
        depth = await self._ask(user, privilege)
        seconds = self._patience.missing if depth is None else self._patience.held
        if len(self._known) >= _MAX_HELD:
            self._forget()
        self._known[user, privilege] = _Known(depth, self._now() + timedelta(seconds=seconds))
        return depth

    def _forget(self) -> None:
        """What is not believed any more; if all of it still is, the oldest half."""
        now = self._now()
        fresh = {question: known for question, known in self._known.items() if now < known.until}
        self._known = fresh if len(fresh) < _MAX_HELD else dict(list(fresh.items())[_MAX_HELD // 2 :])

    # --- one question --------------------------------------------------------------------------------------------

    async def _ask(self, user: User, privilege: str) -> Depth | None:
        if self._quiet_until is not None and self._now() < self._quiet_until:
            raise TemporarilyUnavailable(
                "dataverse_throttled", "Dataverse has asked for fewer questions", until=self._quiet_until
            )
        url = self._api + _function(user, privilege)
        async with self._slots:
            response = await self._get(url, fresh=False)
            if response.status_code == 401:
                response = await self._get(url, fresh=True)
        return self._read(response, privilege)

    async def _get(self, url: str, *, fresh: bool) -> httpx.Response:
        token = await self._tokens.token(fresh=fresh)
        headers = {"authorization": f"Bearer {token}", "accept": "application/json", "odata-version": "4.0"}
        return await _within(self._patience.request, lambda: self._client.get(url, headers=headers))

    def _read(self, response: httpx.Response, privilege: str) -> Depth | None:
        status = response.status_code
        if status == 404 and _NO_SUCH_USER in response.text[:_MAX_SAID]:
            return None  # nobody, who holds nothing
        if status == 429 or status >= 500:
            until = retry_after(response.headers.get("retry-after"), self._now())
            if status == 429:
                self._quiet_until = until
            raise TemporarilyUnavailable("dataverse_unavailable", f"Dataverse answered {status}", until=until)
        if status != 200 or len(response.content) > _MAX_BYTES:
            raise TemporarilyUnavailable(
                "dataverse_unavailable",
                f"Dataverse answered {status}; is the worker's identity an application user with the right to read "
                "users and their roles?",
            )
        return _depth_in(response, privilege)


def _function(user: User, privilege: str) -> str:
    """The question as a URL path. Names were checked, so nothing in them can change the question."""
    if NAME.fullmatch(privilege) is None:
        raise ValueError("no name of a privilege")
    if user.oid:
        names = quote(json.dumps([privilege], separators=(",", ":")))
        function = "RetrieveAadUserSetOfPrivilegesByNames(DirectoryObjectId=@id,PrivilegeNames=@names)"
        return f"/{function}?@id={uuid.UUID(user.oid)}&@names={names}"
    row = uuid.UUID(user.system_user)
    name = f"Microsoft.Dynamics.CRM.RetrieveUserPrivilegeByPrivilegeName(PrivilegeName='{privilege}')"
    return f"/systemusers({row})/{name}"


def _depth_in(response: httpx.Response, privilege: str) -> Depth | None:
    """The farthest of the depths. What cannot be understood is no answer: neither a yes nor a no."""
    try:
        rows = response.json()["RolePrivileges"]
        asked = [row["Depth"] for row in rows if row["PrivilegeName"].lower() == privilege.lower()]
        depths = [_depth(said) for said in asked if said not in _NO_DEPTH]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TemporarilyUnavailable("dataverse_unavailable", "Dataverse's answer could not be understood") from error
    if rows and not asked:
        raise TemporarilyUnavailable("dataverse_unavailable", "Dataverse answered another question than it was asked")
    return max(depths, default=None)


def _depth(said: Any) -> Depth:
    return Depth(said + 1) if isinstance(said, int) else Depth[said.upper()]


async def _within(seconds: float, call: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    try:
        async with asyncio.timeout(seconds):
            return await call()
    except (httpx.HTTPError, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TemporarilyUnavailable(
            "dataverse_unavailable", f"Dataverse cannot be had ({type(error).__name__})"
        ) from error
