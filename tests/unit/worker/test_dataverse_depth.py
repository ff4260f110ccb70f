"""The depth of a privilege in each form that Dataverse writes it."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from pydantic import JsonValue

from flow_worker.access.privileges import DataversePrivileges, PrivilegeCacheTimes
from flow_worker.access.user import User
from flow_worker.dataverse.client import DataverseClient
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.privilege import Depth

ADA = User("11111111-2222-3333-4444-555555555555")


class Tokens:
    async def token(self, *, fresh: bool = False) -> str:
        return "bearer"


async def depth(*values: JsonValue) -> Depth | None:
    """Return the depth that the worker reads from an answer with these depths."""
    rows = [{"PrivilegeName": "prvRead", "Depth": value} for value in values]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"RolePrivileges": rows}))
    async with httpx.AsyncClient(transport=transport) as http:
        url, now = "https://contoso.crm4.dynamics.com", lambda: datetime.now(UTC)
        client = DataverseClient(http, url, Tokens(), request_seconds=5, now=now)
        privileges = DataversePrivileges(client, PrivilegeCacheTimes(0, 0), max_concurrent_queries=1, now=now)
        return await privileges.depth(ADA, "prvRead")


@pytest.mark.parametrize(
    ("values", "farthest"),
    [
        (["Basic"], Depth.BASIC),
        ([3], Depth.GLOBAL),
        (["Local", "Deep"], Depth.DEEP),
        (["Global", "RecordFilter"], Depth.GLOBAL),
        ([4, 0], Depth.BASIC),
        (["RecordFilter"], None),
        ([4], None),
        ([], None),
    ],
)
async def test_the_farthest_depth_counts_and_a_record_filter_reaches_nothing(
    values: list[JsonValue], farthest: Depth | None
) -> None:
    assert await depth(*values) == farthest


@pytest.mark.parametrize("value", ["Galactic", "basic", "", 5, -1, None, [], {}, True, False, 1.0, 4.0])
async def test_an_unknown_depth_is_neither_a_yes_nor_a_no(value: JsonValue) -> None:
    with pytest.raises(TemporarilyUnavailable):
        await depth(value)
