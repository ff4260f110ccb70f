"""Finds users' rows in Dataverse by their Entra object IDs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from flow_contracts.guid import NIL_GUID, NotGuid, parse_guid
from flow_worker.dataverse.client import DataverseClient, WebApiAnswer

_LIFETIME = timedelta(hours=1)
_LIFETIME_OF_NONE = timedelta(minutes=1)
_MAX_CACHED = 10_000


class UserQueryRefused(Exception):
    """Dataverse did not return rows; `answer` says why."""

    def __init__(self, answer: WebApiAnswer) -> None:
        super().__init__(f"Dataverse answered {answer.status}")
        self.answer = answer


class Users:
    """The rows of an organization's enabled users, with a cache."""

    def __init__(self, client: DataverseClient, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now
        self._cache: dict[str, tuple[str | None, datetime]] = {}
        self._own_row: str | None = None

    async def row_of(self, oid: str) -> str | None:
        """Return the ID of the row with this object ID; None if there is none, or if the user is disabled.

        It filters, because a GET by the alternate key can create the user. Raises `TemporarilyUnavailable` and
        `UserQueryRefused`.
        """
        cached = self._cache.get(oid)
        if cached is not None and self._now() < cached[1]:
            return cached[0]
        try:
            condition = f"azureactivedirectoryobjectid eq {parse_guid(oid)}"
        except NotGuid:
            return None
        found = await self._query(condition)
        self._remember(oid, found)
        return found

    async def own_row(self) -> str:
        """Return the ID of the worker's own row, its application user. Raises as `row_of` does."""
        if self._own_row is None:
            answer = await self._client.get("/WhoAmI")
            if answer.status != 200:
                raise UserQueryRefused(answer)
            try:
                self._own_row = _row_id(answer.json()["UserId"])
            except (ValueError, KeyError) as error:
                raise UserQueryRefused(answer) from error
        return self._own_row

    async def _query(self, condition: str) -> str | None:
        path = f"/systemusers?$select=systemuserid,isdisabled&$filter={condition}&$top=2"
        answer = await self._client.get(path.replace(" ", "%20"))
        if answer.status != 200:
            raise UserQueryRefused(answer)
        try:
            rows = answer.json()["value"]
            return next((_row_id(row["systemuserid"]) for row in rows if row.get("isdisabled") is not True), None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserQueryRefused(answer) from error

    def _remember(self, oid: str, found: str | None) -> None:
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        # An administrator may add the user at any time.
        self._cache[oid] = found, self._now() + (_LIFETIME if found else _LIFETIME_OF_NONE)


def _row_id(text: object) -> str:
    found = parse_guid(text) if isinstance(text, str) else NIL_GUID
    if found == NIL_GUID:
        raise ValueError("no ID")
    return found
