"""Queries Dataverse for the privileges that a user holds.

`RetrieveAadUserSetOfPrivilegesByNames` takes the Entra object ID, `RetrieveUserPrivilegeByPrivilegeName` the user's
row. Both include the roles of the user's teams (Microsoft Learn, Web API function reference). The worker never uses
the alternate key `azureactivedirectoryobjectid`: a GET by this key can create the user.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from flow_contracts.guid import parse_guid
from flow_worker.access.user import User
from flow_worker.dataverse.client import DATAVERSE_UNAVAILABLE, DataverseClient, WebApiAnswer
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.privilege import PRIVILEGE_NAME, Depth

_NO_SUCH_USER = "0x80040217"
"""Dataverse's error code for a row that does not exist; any other 404 means a wrong URL."""
_RECORD_FILTER = "RecordFilter"
"""The depth of a privilege by a record filter, which reaches no business unit (Microsoft Learn, `PrivilegeDepth`)."""
_DEPTH_NAMES = ("Basic", "Local", "Deep", "Global", _RECORD_FILTER)
"""The names of the depths, in the order of their numbers."""
_ORGANIZATION_LIFETIME = timedelta(hours=1)
_MAX_CACHED = 10_000


@dataclass(frozen=True, slots=True)
class PrivilegeCacheTimes:
    """The seconds for which an answer of Dataverse stays in the cache."""

    held: float
    missing: float
    """Shorter than `held`, so that a privilege that an administrator has just granted works soon."""


@dataclass(frozen=True, slots=True)
class _CachedDepth:
    depth: Depth | None
    until: datetime


class DataversePrivileges:
    """The privileges of the users of one organization. Concurrent callers share one query for the same answer."""

    def __init__(
        self,
        client: DataverseClient,
        cache_times: PrivilegeCacheTimes,
        *,
        max_concurrent_queries: int,
        now: Callable[[], datetime],
    ) -> None:
        """`max_concurrent_queries`: less than 52 together with the client's other users.

        Dataverse throttles further concurrent requests of one user (Microsoft Learn, "Service protection API limits").
        """
        self.client = client
        self._cache_times = cache_times
        self._slots = asyncio.Semaphore(max_concurrent_queries)
        self._now = now
        self._cache: dict[tuple[User, str], _CachedDepth] = {}
        self._running: dict[tuple[User, str], asyncio.Task[Depth | None]] = {}
        self._organization: tuple[str, datetime] | None = None
        self._asking: asyncio.Task[str] | None = None

    async def organization(self) -> str:
        """Return the ID of the organization behind the URL, in lower case. Raises `TemporarilyUnavailable`.

        The ID stays in the cache for an hour: an administrator can give an organization's URL to another one.
        """
        known = self._organization
        if known is not None and self._now() < known[1]:
            return known[0]
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask_organization())
            self._asking.add_done_callback(self._forget_asking)
        return await asyncio.shield(self._asking)

    async def _ask_organization(self) -> str:
        found = _organization_id(_checked(await self._get("/WhoAmI")))
        self._organization = found, self._now() + _ORGANIZATION_LIFETIME
        return found

    def _forget_asking(self, query: asyncio.Task[str]) -> None:
        self._asking = None
        if not query.cancelled():
            query.exception()  # marks it as retrieved, as in `_forget_query`

    async def depth(self, user: User, privilege: str) -> Depth | None:
        """Return the farthest depth at which the user holds the privilege, or None if the user does not hold it.

        Raises `TemporarilyUnavailable` if Dataverse does not answer with either.
        """
        key = user, privilege
        cached = self._cache.get(key)
        if cached is not None and self._now() < cached.until:
            return cached.depth
        query = self._running.get(key)
        if query is None:
            query = self._running[key] = asyncio.ensure_future(self._fetch(user, privilege))
            query.add_done_callback(lambda done: self._forget_query(key, done))
        # Without the shield, one cancelled caller would cancel the query of all the others.
        return await asyncio.shield(query)

    def _forget_query(self, key: tuple[User, str], query: asyncio.Task[Depth | None]) -> None:
        del self._running[key]
        if not query.cancelled():
            query.exception()  # marks it as retrieved: asyncio logs an error if every caller was cancelled before

    async def _fetch(self, user: User, privilege: str) -> Depth | None:
        depth = await self._query(user, privilege)
        seconds = self._cache_times.missing if depth is None else self._cache_times.held
        if len(self._cache) >= _MAX_CACHED:
            self._shrink_cache()
        self._cache[user, privilege] = _CachedDepth(depth, self._now() + timedelta(seconds=seconds))
        return depth

    def _shrink_cache(self) -> None:
        """Drop the expired entries; if none has expired, the older half."""
        now = self._now()
        fresh = {key: cached for key, cached in self._cache.items() if now < cached.until}
        self._cache = fresh if len(fresh) < _MAX_CACHED else dict(list(fresh.items())[_MAX_CACHED // 2 :])

    # --- one query -----------------------------------------------------------------------------------------------

    async def _query(self, user: User, privilege: str) -> Depth | None:
        answer = await self._get(_function_path(user, privilege))
        if answer.status == 404 and answer.error_code == _NO_SUCH_USER:
            return None  # a user that does not exist holds no privilege
        return _farthest_depth(_checked(answer), privilege)

    async def _get(self, path: str) -> WebApiAnswer:
        async with self._slots:
            return await self.client.get(path, is_urgent=True)


class OrganizationPrivileges:
    """The privileges for a queue that one organization sends to: only that organization's answers count.

    A copy of an environment has the same users, privileges and row IDs, but not the same rights.
    """

    def __init__(self, dataverse: DataversePrivileges, organization: str) -> None:
        """`organization`: the ID of the organization that sends to the queue, in lower case."""
        self._dataverse = dataverse
        self._organization = organization

    async def depth(self, user: User, privilege: str) -> Depth | None:
        """See `DataversePrivileges.depth`. The organization's ID is compared before the query."""
        if await self._dataverse.organization() != self._organization:
            raise TemporarilyUnavailable(
                "dataverse_organization_mismatch",
                "the Dataverse of this queue is another organization than the one that sends to it; correct the "
                "queue's dataverse_url",
            )
        return await self._dataverse.depth(user, privilege)


def _checked(answer: WebApiAnswer) -> WebApiAnswer:
    """Return a successful answer. Raises `TemporarilyUnavailable` for any other one."""
    status = answer.status
    if status == 429 or status >= 500:
        raise TemporarilyUnavailable(DATAVERSE_UNAVAILABLE, f"Dataverse answered {status}", until=answer.retry_after)
    if status != 200 or not answer.is_complete:
        raise TemporarilyUnavailable(
            DATAVERSE_UNAVAILABLE,
            f"Dataverse answered {status}; make the worker's identity an application user that may read users and "
            "their roles",
        )
    return answer


def _organization_id(answer: WebApiAnswer) -> str:
    """Return the ID in an answer of `WhoAmI` (Microsoft Learn, `WhoAmIResponse`). Raises `TemporarilyUnavailable`."""
    try:
        found = answer.json()["OrganizationId"]
        return parse_guid(found)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TemporarilyUnavailable("dataverse_unavailable", "Dataverse's answer cannot be parsed") from error


def _function_path(user: User, privilege: str) -> str:
    """Return the URL path and query of the function call.

    The function checks the name's form again, because a quote or a parenthesis in the name would change the query.
    """
    if PRIVILEGE_NAME.fullmatch(privilege) is None:
        raise ValueError(f"the privilege's name must match {PRIVILEGE_NAME.pattern}")
    if user.oid:
        names = quote(json.dumps([privilege], separators=(",", ":")))
        function = "RetrieveAadUserSetOfPrivilegesByNames(DirectoryObjectId=@id,PrivilegeNames=@names)"
        return f"/{function}?@id={parse_guid(user.oid)}&@names={names}"
    row = parse_guid(user.system_user or "")
    name = f"Microsoft.Dynamics.CRM.RetrieveUserPrivilegeByPrivilegeName(PrivilegeName='{privilege}')"
    return f"/systemusers({row})/{name}"


def _farthest_depth(answer: WebApiAnswer, privilege: str) -> Depth | None:
    """Return the farthest of the depths in the answer: a user can hold one privilege by several roles.

    Raises `TemporarilyUnavailable` for an answer of another form, which proves nothing about the user.
    """
    try:
        rows = answer.json()["RolePrivileges"]
        matching = [row["Depth"] for row in rows if row["PrivilegeName"].lower() == privilege.lower()]
        depths = [depth for value in matching if (depth := _depth(value)) is not None]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TemporarilyUnavailable("dataverse_unavailable", "Dataverse's answer cannot be parsed") from error
    # No row at all means that the user does not hold the privilege. Rows of other privileges prove nothing.
    if rows and not matching:
        raise TemporarilyUnavailable("dataverse_unavailable", "Dataverse answered for another privilege than queried")
    return max(depths, default=None)


def _depth(value: Any) -> Depth | None:
    """Return the depth of a row; None for a record filter. Raises `ValueError` for anything else.

    Dataverse writes the depth as a number from 0 or as a name, depending on the function. To Python, true and 1.0 equal
    1; they are no depths.
    """
    if type(value) is int and 0 <= value < len(_DEPTH_NAMES):
        value = _DEPTH_NAMES[value]
    if not isinstance(value, str) or value not in _DEPTH_NAMES:
        raise ValueError("not a depth")
    return None if value == _RECORD_FILTER else Depth[value.upper()]
