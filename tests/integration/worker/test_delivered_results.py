"""Rows and notifications of a running worker: from a sender's request to what the sender sees in Dataverse."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from flow_contracts.client import Background, FlowClient
from flow_worker.delivery.row_ids import row_id
from flow_worker.settings import Settings
from servicebus_emulator.cloud.dataverse.definitions import ORGANIZATION_ID
from tests.support.system import ROLE, WAIT, JsonObject, System

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS, BELLS = "new_flowrequests", "appnotifications"
SECRET_INPUT = "do-not-store-this"
UNREACHABLE = [{"kind": "html", "status": 503, "path": ROWS}, {"kind": "html", "status": 503, "path": BELLS}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(system: System) -> Settings:
    """Settings with both sinks for all queues, and one flow without any."""
    sinks = ["rows", "bell"]
    system.flows["notify-team"]["deliver_to"] = []
    return system.settings(
        request_queues=[
            {"name": "flow-requests", "lanes": 3, "deliver_to": sinks},
            {
                "name": "dataverse-requests",
                "authority": "dataverse",
                "organization": str(ORGANIZATION_ID),
                "flows": {"new_StartQuote": "native"},
                "lanes": 1,
                "deliver_to": sinks,
            },
        ],
        flows=_flows(system),
        dataverse={"url": system.emulator.web.dataverse_url},
        delivery={
            "rows": {"kind": "dataverse_row", "base_seconds": 0.05, "max_pause_seconds": 0.3},
            "bell": {"kind": "in_app_notification", "opens": "rows", "base_seconds": 0.05, "max_pause_seconds": 0.3},
        },
        outbox={"interval_seconds": 0.2},
    )


def _flows(system: System) -> JsonObject:
    web = system.emulator.web
    of_roles = {name: {"url": web.flow_url(name), "role": ROLE} | more for name, more in system.flows.items()}
    native = {"url": web.flow_url("create-quote"), "privilege": "prvCreatenew_quote"}
    return of_roles | {"native": native}


async def rows(system: System, table: str = ROWS) -> dict[str, JsonObject]:
    """Return the rows of a table by their IDs."""
    key = "appnotificationid" if table == BELLS else "new_flowrequestid"
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{system.emulator.web.url}/emulator/dataverse/rows/{table}")
    return {row[key]: row for row in answer.raise_for_status().json()["rows"]}


async def row_when(system: System, message_id: str, is_ready: Callable[[JsonObject], bool]) -> JsonObject:
    """Return the request's row as soon as it is as the test wants it."""
    async with asyncio.timeout(WAIT):
        while True:
            row = (await rows(system)).get(row_id(message_id))
            if row is not None and is_ready(row):
                return row
            await asyncio.sleep(0.02)


async def new_row(system: System, before: set[str]) -> JsonObject:
    """Return the ended row that was not there before."""
    async with asyncio.timeout(WAIT):
        while True:
            new = [row for id_, row in (await rows(system)).items() if id_ not in before and is_ended(row)]
            if new:
                (row,) = new
                return row
            await asyncio.sleep(0.02)


async def bells_of(system: System, message_id: str, count: int = 1) -> list[JsonObject]:
    """Return the notifications that open the request's row."""
    async with asyncio.timeout(WAIT):
        while True:
            found = await rows(system, BELLS)
            mine = [bell for bell in found.values() if row_id(message_id) in (bell["data"] or "")]
            if len(mine) >= count:
                return mine
            await asyncio.sleep(0.02)


def is_ended(row: JsonObject) -> bool:
    return str(row["new_status"]) != "pending"


async def submit(background: Background, flow: str, message_id: str, **options: Any) -> str:
    return await background.submit(flow, {"customer": SECRET_INPUT, "amount": 1}, message_id=message_id, **options)


async def test_each_kind_of_end_has_its_row_and_its_notification(
    system: System, client: FlowClient, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    requests = {
        "m-done": ("create-quote", system.claim(), "succeeded", None),
        "m-broken": ("broken-approval", system.claim(user="bob"), "unknown", "NoResponse"),
        "m-role": ("create-quote", system.claim("Other.Role"), "refused", "flow_not_allowed"),
        "m-absent": ("no-such-flow", system.claim(), "refused", "flow_not_allowed"),
    }
    unproven = await submit(background, "create-quote", "m-forged", claim=system.claim(forged=True))
    quiet = await submit(background, "notify-team", "m-quiet", claim=system.claim())
    for message_id, (flow, claim, status, _) in requests.items():
        sent = await submit(background, flow, message_id, claim=claim)
        result = await background.wait(sent, timeout=WAIT)
        row = await row_when(system, message_id, is_ended)
        assert (row["new_status"], row["new_correlationid"]) == (result.status.value, sent)
        assert row["new_code"] == (result.error.code if result.error else None)
        assert row["new_status"] == status
        (bell,) = await bells_of(system, message_id)
        assert bell["ownerid"] == row["ownerid"] == row_of(system, "bob" if flow == "broken-approval" else "ada")
    done = await row_when(system, "m-done", is_ended)
    assert json.loads(done["new_output"])["customer"] == SECRET_INPUT, "the flow repeats the input in its output"
    assert done["new_runid"] == (await system.calls("create-quote"))[-1]["run_id"]
    for sent in (unproven, quiet):
        await background.wait(sent, timeout=WAIT)
    everything = await rows(system)
    assert not {row_id("m-forged"), row_id("m-quiet")} & everything.keys()
    stored = json.dumps([*everything.values(), *(await rows(system, BELLS)).values()])
    for secret in ("eyJ", "triggers/manual", "Bearer", "http://", "https://"):
        assert secret not in stored
    assert SECRET_INPUT not in "".join(record.getMessage() for record in caplog.records)


async def test_the_row_is_pending_while_the_flow_runs(system: System, background: Background) -> None:
    sent = await submit(background, "slow-report", "m-slow", claim=system.claim())
    pending = await row_when(system, "m-slow", lambda _: True)
    assert (pending["new_status"], pending["new_flow"], pending["new_output"]) == ("pending", "slow-report", None)
    await background.wait(sent, timeout=WAIT)
    ended = await row_when(system, "m-slow", is_ended)
    assert (ended["new_status"], ended["ownerid"]) == ("succeeded", pending["ownerid"])
    assert len(await bells_of(system, "m-slow")) == 1


@pytest.mark.parametrize("object_id", ["known", "zeros"])
async def test_the_user_of_a_native_message_owns_the_row(system: System, client: FlowClient, object_id: str) -> None:
    post = {
        "user": "ada",
        "message": "new_StartQuote",
        "input": {"customer": "Contoso", "amount": 1},
        "object_id": object_id,
    }
    before = set(await rows(system))
    async with httpx.AsyncClient() as http:
        (await http.post(f"{system.emulator.web.url}/emulator/dataverse/post", json=post)).raise_for_status()
    row = await new_row(system, before)
    assert (row["new_status"], row["ownerid"]) == ("succeeded", row_of(system, "ada"))
    assert row["new_messageid"].startswith(f"dataverse/{ORGANIZATION_ID}/")
    (bell,) = await bells_of(system, row["new_messageid"])
    assert bell["ownerid"] == row["ownerid"]


async def test_an_outage_of_dataverse_delays_no_reply_and_loses_no_row(
    system: System, client: FlowClient, background: Background
) -> None:
    await system.put("dataverse", {"faults": UNREACHABLE})
    ids = [f"m-outage-{number}" for number in range(20)]
    sent = [await submit(background, "create-quote", each, claim=system.claim()) for each in ids]
    results = await asyncio.gather(*(background.wait(each, timeout=WAIT) for each in sent))
    assert {result.status for result in results} == {"succeeded"}
    assert not {row_id(each) for each in ids} & (await rows(system)).keys()
    await system.put("dataverse", {"faults": []})
    for each in ids:
        assert (await row_when(system, each, is_ended))["new_status"] == "succeeded"
        assert len(await bells_of(system, each)) == 1


def row_of(system: System, user: str) -> str:
    return str(system.emulator.web.dataverse.directory.ids_of(user)[1])
