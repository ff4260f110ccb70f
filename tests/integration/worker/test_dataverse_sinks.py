"""Rows and notifications over real sockets: the sinks against the emulated Dataverse, with a managed-identity token."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from flow_contracts.result import FlowError, Status
from flow_worker import clock
from flow_worker.access.build import open_dataverse
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.delivery.dataverse_sinks import dataverse_sinks
from flow_worker.delivery.port import Asker, Attempt, Delivered, GiveUp, RetryLater, Sink
from flow_worker.delivery.row_ids import row_id
from servicebus_emulator.cloud.entra.definitions import MANAGED_IDENTITY_OBJECT_ID
from servicebus_emulator.cloud.entra.issuer import object_id_of
from tests.support.scripted_dataverse import CREATED, delivery, result
from tests.support.system import JsonObject, System, running_system

ADA = Asker("tenant", str(object_id_of("ada")))
STRANGER = Asker("tenant", str(object_id_of("nobody-knows-me")))
ROWS = "new_flowrequests"
BELLS = "appnotifications"
ROW: JsonObject = {"kind": "dataverse_row"}
BELL: JsonObject = {"kind": "in_app_notification", "opens": "rows"}
OWN: JsonObject = ROW | {"without_impersonation": "own"}


@dataclass
class Organization:
    """The emulated organization, and sinks that write to it."""

    system: System
    identity: ManagedIdentity

    @asynccontextmanager
    async def sinks(self, url: str | None = None, **delivery_: JsonObject) -> AsyncIterator[list[Sink]]:
        url = url or self.system.emulator.web.dataverse_url
        hosts = [httpx.URL(each).netloc.decode() for each in (url, self.system.emulator.web.url)]
        settings = self.system.settings(
            dataverse={"url": url, "request_seconds": 1}, delivery=delivery_ or {"rows": ROW}, plain_http_hosts=hosts
        )
        async with open_dataverse(settings, url, self.identity, clock.now) as client:
            yield dataverse_sinks(settings, {url: client}, clock.now)

    async def deliver(self, url: str | None = None, *, sink: JsonObject = ROW, **changes: Any) -> Attempt:
        """Return the outcome of one attempt of a new sink, for ada's succeeded request unless `changes` say else."""
        found = changes.pop("found", result(output={"number": 1}, output_encoding="json"))
        async with self.sinks(url, **({"rows": ROW, "bell": sink} if sink is BELL else {"rows": sink})) as sinks:
            return await sinks[-1].deliver(delivery(found, **({"asker": ADA} | changes)))

    async def put(self, **change: Any) -> None:
        await self.system.put("dataverse", change)

    async def rows(self, table: str = ROWS) -> list[JsonObject]:
        async with httpx.AsyncClient() as client:
            found = await client.get(f"{self.system.emulator.web.url}/emulator/dataverse/rows/{table}")
        rows: list[JsonObject] = found.raise_for_status().json()["rows"]
        return rows

    def row_of(self, user: str) -> str:
        return str(self.system.emulator.web.dataverse.directory.ids_of(user)[1])


@pytest.fixture
async def dataverse(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Organization]:
    async with running_system(monkeypatch) as system, ManagedIdentity(client_id=None, deadline_seconds=10) as identity:
        yield Organization(system, identity)


async def test_a_request_has_one_row_of_its_asker_from_pending_to_its_end(dataverse: Organization) -> None:
    async with dataverse.sinks() as (rows,):
        assert await rows.deliver(delivery(asker=ADA)) == CREATED
        (row,) = await dataverse.rows()
        assert (row["new_status"], row["ownerid"]) == ("pending", dataverse.row_of("ada"))
        assert row["new_flowrequestid"] == row_id("m-1")
        for status in Status:
            said = None if status is Status.SUCCEEDED else FlowError(code="code", message="Cause.")
            assert await rows.deliver(delivery(result(status, error=said), asker=ADA)) == Delivered()
            (row,) = await dataverse.rows()
            assert (row["new_status"], row["new_code"]) == (status.value, said and "code")
        assert await rows.deliver(delivery(asker=ADA)) == Delivered(note="exists")
        assert (await dataverse.rows()) == [row], "a late pending changes nothing"
        assert row["createdonbehalfby"] == str(MANAGED_IDENTITY_OBJECT_ID)


@pytest.mark.parametrize(
    ("output", "encoding"),
    [
        ("control \x00\x01\x0b\x1b and \ud800 half", "text"),
        ({"\x00": "\ud800\uffff\U0001f600"}, "json"),
        ("\U0001f600" * 524_288, "text"),
        ("x" * 1_048_577, "text"),
        (["x" * 1_048_570], "json"),
        ("<script>'; DROP --\u2028\u202e</script>", "text"),
    ],
    ids=["controls", "json", "limit", "beyond", "json_limit", "markup"],
)
async def test_odd_and_long_outputs_are_accepted(dataverse: Organization, output: Any, encoding: str) -> None:
    found = result(output=output, output_encoding=encoding)
    assert await dataverse.deliver(found=found) == Delivered()
    (row,) = await dataverse.rows()
    size = len(output.encode("utf-16-le", "surrogatepass")) // 2 if isinstance(output, str) else 0
    if size > 1_048_576:
        assert (row["new_output"], row["new_code"]) == (None, "output_too_large")
    elif encoding == "json":
        assert json.loads(row["new_output"]) == output
    else:
        assert len(row["new_output"]) == len(output)


async def test_a_shorter_column_choices_and_other_names_are_a_matter_of_settings(dataverse: Organization) -> None:
    names = ["pending", *(each.value for each in Status)]
    table = {
        "logical_name": "cr1_answer",
        "set_name": "cr1_answers",
        "columns": [
            {"name": "cr1_state", "type": "Choice", "options": list(range(6))},
            {"name": "cr1_text", "type": "Memo", "max_length": 5},
            {"name": "cr1_code"},
            {"name": "cr1_why", "type": "Memo"},
        ],
    }
    rights = dict.fromkeys(["prvCreatecr1_answer", "prvReadcr1_answer", "prvWritecr1_answer"], "Global")
    await dataverse.put(tables=[table], application_privileges=rights)
    kept = {"status": "cr1_state", "output": "cr1_text", "code": "cr1_code", "message": "cr1_why"}
    left_out = dict.fromkeys(("name", "message_id", "correlation_id", "flow", "output_type", "http_status"), "")
    left_out |= dict.fromkeys(("output_encoding", "attempts", "note", "run_id", "run_url", "asker"), "")
    left_out |= dict.fromkeys(("replayed_as", "accepted_on", "finished_on", "settled_by"), "")
    sink = ROW | {
        "table": "cr1_answer",
        "columns": kept | left_out,
        "status_choices": {name: number for number, name in enumerate(names)},
        "impersonate": False,
    }
    found = result(Status.FAILED, output="too long", output_encoding="text")
    assert await dataverse.deliver(sink=sink, found=found) == Delivered()
    (row,) = await dataverse.rows("cr1_answers")
    assert (row["cr1_state"], row["cr1_text"], row["cr1_code"]) == (2, None, "output_too_large")
    unmapped = await dataverse.deliver(sink=sink | {"columns": kept})
    assert isinstance(unmapped, RetryLater)
    assert unmapped.code == "dataverse_column_unknown"


async def test_an_answer_that_is_lost_after_the_write_leaves_one_row_and_one_notification(
    dataverse: Organization,
) -> None:
    async with dataverse.sinks(rows=ROW, bell=BELL) as (rows, bell):
        for found in (None, result(Status.UNKNOWN), result()):
            for sink, table in ((rows, ROWS), (bell, BELLS)) if found else ((rows, ROWS),):
                lost = {"kind": "close_midway", "takes_effect": True, "next_calls": 1, "path": table}
                await dataverse.put(faults=[lost])
                state = "settled" if found and found.status is Status.SUCCEEDED else "ended" if found else "pending"
                attempt = delivery(found, asker=ADA, state=state)
                assert isinstance(await sink.deliver(attempt), RetryLater)
                assert isinstance(await sink.deliver(attempt), Delivered)
    (row,) = await dataverse.rows()
    assert row["new_status"] == "succeeded"
    bells = await dataverse.rows(BELLS)
    assert sorted(bell["title"] for bell in bells) == ["create-quote is done", "create-quote: the outcome is unknown"]
    assert {bell["ownerid"] for bell in bells} == {dataverse.row_of("ada")}
    assert f"id={row['new_flowrequestid']}" in bells[0]["data"]


async def test_a_refused_impersonation_says_so_and_only_the_setting_makes_the_worker_the_owner(
    dataverse: Organization,
) -> None:
    held = dataverse.system.emulator.web.dataverse.directory.definition.application_privileges or {}
    without = {name: depth for name, depth in held.items() if name != "prvActOnBehalfOfAnotherUser"}
    for asker, rights in ((STRANGER, held), (ADA, without)):
        await dataverse.put(application_privileges=rights)
        refused = await dataverse.deliver(asker=asker, message_id=str(asker.oid))
        assert isinstance(refused, RetryLater)
        assert refused.code == "dataverse_impersonation_refused"
        assert await dataverse.rows() == []
    for found in (None, result(Status.FAILED), result()):
        attempt = await dataverse.deliver(sink=OWN, found=found)
        assert attempt == (CREATED if found is None else Delivered())
    (row,) = await dataverse.rows()
    assert (row["ownerid"], row["new_status"]) == (str(MANAGED_IDENTITY_OBJECT_ID), "succeeded")


async def test_a_row_of_another_user_is_never_written_into(dataverse: Organization) -> None:
    bob = replace(ADA, oid=str(object_id_of("bob")))
    refusal = result(Status.REFUSED, error=FlowError(code="message_id_conflict", message="Cause."))
    assert await dataverse.deliver(asker=bob, found=refusal, is_owner=False) == CREATED
    assert isinstance(await dataverse.deliver(), RetryLater)
    own = await dataverse.deliver(sink=OWN)
    assert isinstance(own, GiveUp)
    assert own.code == "dataverse_row_of_another"
    (row,) = await dataverse.rows()
    assert (row["new_output"], row["new_status"]) == (None, "refused")


FAULTS: list[tuple[JsonObject, str]] = [
    ({"kind": "throttle", "retry_after": "7", "code": "0x80072322"}, "dataverse_throttled"),
    ({"kind": "throttle", "retry_after": None, "code": "0x80072321"}, "dataverse_throttled"),
    ({"kind": "throttle", "retry_after": "garbage", "code": "0x80072326"}, "dataverse_throttled"),
    ({"kind": "html", "status": 200}, "dataverse_unexpected"),
    ({"kind": "html", "status": 503}, "dataverse_unavailable"),
    ({"kind": "html", "status": 404}, "dataverse_not_found"),
    ({"kind": "respond", "status": 302, "headers": {"location": "https://login.example/"}}, "dataverse_unexpected"),
    ({"kind": "respond", "status": 500}, "dataverse_unavailable"),
    ({"kind": "respond", "status": 401}, "dataverse_unauthorized"),
    ({"kind": "invalid_json"}, "dataverse_unexpected"),
    ({"kind": "hang"}, "dataverse_unavailable"),
    ({"kind": "reset_before_reading"}, "dataverse_unavailable"),
    ({"kind": "reset_after_reading"}, "dataverse_unavailable"),
    ({"kind": "close_midway"}, "dataverse_unavailable"),
    ({"kind": "oversize", "size_bytes": 8 << 20}, "dataverse_unexpected"),
]


async def test_every_disturbed_answer_is_followed_by_another_attempt(dataverse: Organization) -> None:
    async with dataverse.sinks() as (warm_up,):
        assert await warm_up.deliver(delivery(asker=ADA)) == CREATED
    for fault, code in FAULTS:
        await dataverse.put(faults=[fault])
        failed = await dataverse.deliver()
        assert isinstance(failed, RetryLater), fault
        assert failed.code == code, fault
        if fault.get("retry_after") == "7":
            assert failed.not_before is not None
            assert failed.not_before - clock.now() > timedelta(seconds=5)
        assert dataverse.system.emulator.web.url not in failed.cause
    await dataverse.put(faults=[])
    assert await dataverse.deliver() == Delivered()
    assert len(await dataverse.rows()) == 1


async def test_one_429_pauses_all_sinks_of_the_organization(dataverse: Organization) -> None:
    async with dataverse.sinks(rows=ROW, bell=BELL) as (rows, bell):
        await dataverse.put(faults=[{"kind": "throttle", "retry_after": "60", "next_calls": 1}])
        for sink in (rows, bell):
            paused = await sink.deliver(delivery(result(), asker=ADA))
            assert isinstance(paused, RetryLater)
            assert (paused.code, paused.is_outage) == ("dataverse_throttled", True)
            assert paused.not_before is not None
    assert await dataverse.rows() == []


async def test_a_host_that_never_answers_costs_one_deadline(dataverse: Organization) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = asyncio.get_running_loop().time()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/dataverse"
        await dataverse.put(faults=[])
        failed = await dataverse.deliver(url)
        assert isinstance(failed, RetryLater)
        assert failed.is_outage
        assert asyncio.get_running_loop().time() - started < 10


async def test_a_notification_needs_a_user_and_a_privilege(dataverse: Organization) -> None:
    assert await dataverse.deliver(sink=BELL, asker=STRANGER) == Delivered(note="no_recipient")
    await dataverse.put(application_privileges={"prvReadUser": "Global"})
    refused = await dataverse.deliver(sink=BELL)
    assert isinstance(refused, RetryLater)
    assert refused.code == "dataverse_forbidden"
    await dataverse.put(application_privileges={})
    unread = await dataverse.deliver(sink=BELL)
    assert isinstance(unread, RetryLater)
    assert "systemuser" in unread.cause


RAW_ANSWERS = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "no such status": b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
    "interim answers only": b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    "broken header": b"HTTP/1.1 204 No Content\r\n\x00: \xff\r\n\r\n",
    "cut body": b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "wrong gzip": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    "not UTF-8": b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\n\xff\xfe",
    "code is no text": b'HTTP/1.1 500 E\r\ncontent-length: 22\r\n\r\n{"error":{"code":[1]}}',
    "error is no object": b'HTTP/1.1 403 F\r\ncontent-length: 13\r\n\r\n{"error":"x"}',
    "long retry": b"HTTP/1.1 429 T\r\nretry-after: 1e308\r\ncontent-length: 0\r\n\r\n",
    "retry is no number": b"HTTP/1.1 429 T\r\nretry-after: nan\r\ncontent-length: 0\r\n\r\n",
}


async def test_no_garbage_of_a_host_ends_a_delivery(dataverse: Organization) -> None:
    answers = iter(RAW_ANSWERS.values())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(answers))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/dataverse"
        for name in RAW_ANSWERS:
            failed = await dataverse.deliver(url)
            assert isinstance(failed, RetryLater), name
            assert failed.code.startswith("dataverse_"), name
            assert failed.code != "dataverse_impersonation_refused", "only Dataverse itself can say so"
            assert "{" not in failed.cause, name
            assert failed.not_before is None or failed.not_before - clock.now() <= timedelta(days=1), name
