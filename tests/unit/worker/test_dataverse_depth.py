"""How far a privilege reaches, as Dataverse may say it."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from pydantic import JsonValue

from flow_worker.access.dataverse import Dataverse, Patience
from flow_worker.access.privilege import Depth
from flow_worker.access.user import User
from flow_worker.errors import TemporarilyUnavailable

ADA = User("11111111-2222-3333-4444-555555555555")


class Tokens:
    async def token(self, *, fresh: bool = False) -> str:
        return "bearer"


async def depth(*said: JsonValue) -> Depth | None:
    """What is made of an answer with these depths."""
    rows = [{"PrivilegeName": "prvRead", "Depth": one} for one in said]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"RolePrivileges": rows}))
    async with httpx.AsyncClient(transport=transport) as http:
        url, now = "https://contoso.crm4.dynamics.com", lambda: datetime.now(UTC)
        asked = Dataverse(http, url, Tokens(), Patience(0, 0, 5), concurrent=1, now=now)
        return await asked.depth(ADA, "prvRead")


@pytest.mark.parametrize(
    ("said", "reaches"),
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
async def test_the_farthest_depth_counts_and_a_filter_over_records_is_none(
    said: list[JsonValue], reaches: Depth | None
) -> None:
    assert await depth(*said) == reaches


@pytest.mark.parametrize("said", ["Galactic", 5, None, []])
async def test_an_unheard_of_depth_is_neither_a_yes_nor_a_no(said: JsonValue) -> None:
    with pytest.raises(TemporarilyUnavailable):
        await depth(said)
