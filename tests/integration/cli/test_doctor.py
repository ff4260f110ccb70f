"""`flow-worker doctor` on an emulator: a sound installation, and one with ten faults at once."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flow_worker.cli.main import cli
from flow_worker.settings import Settings
from servicebus_emulator import config
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from tests.support.system import JsonObject, System, worker_settings

pytestmark = pytest.mark.timeout(180)
UNSEEN = "\N{EN DASH}"
ORGANIZATION = "b0c5c4a4-2b6f-4a0e-9f3e-0d6f5c7b8a91"


@asynccontextmanager
async def emulator(
    configuration: config.Config, monkeypatch: pytest.MonkeyPatch, *, admin: bool = True
) -> AsyncIterator[Emulator]:
    endpoints = Endpoints("127.0.0.1", 0, 0, admin_port=0 if admin else None)
    async with running_emulator(configuration, endpoints) as running:
        for name, value in running.web.environment().items():
            monkeypatch.setenv(name, value)
        yield running


def settings_of(running: Emulator, folder: Path) -> JsonObject:
    """Return the settings of a sound installation."""
    document = worker_settings(running, {"create-quote": {"privilege": "prvCreatenew_quote"}})
    document["servicebus"]["administration_url"] = running.admin_url or "http://127.0.0.1:1"
    document["dataverse"] = {"url": running.web.dataverse_url}
    document["journal"] = {"path": str(folder / "journal.sqlite3")}
    document["health"] = {"port": free_port()}
    return document


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def doctor(document: JsonObject, monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> Result:
    return await command(document, monkeypatch, folder, "doctor", *options)


async def command(document: JsonObject, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Result:
    """Run a command with these settings, in a thread: the emulator needs this one's event loop."""
    monkeypatch.chdir(folder)
    for name in ("SERVICEBUS", "REQUEST_QUEUES", "CONTINUATIONS", "REPLIES", "CLAIMS", "DATAVERSE", "FLOWS", "JOURNAL"):
        monkeypatch.delenv(f"FLOW_WORKER_{name}", raising=False)
    for name, value in document.items():
        text = value if isinstance(value, str) else json.dumps(value)
        monkeypatch.setenv(f"FLOW_WORKER_{name.upper()}", text)
    return await asyncio.to_thread(CliRunner().invoke, cli, arguments)


def lines(result: Result, mark: str) -> list[str]:
    return [line for line in result.output.splitlines() if line.startswith(mark)]


async def test_a_sound_installation_passes_every_check_and_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with emulator(config.load(None), monkeypatch) as running:
        document = settings_of(running, tmp_path)
        system = System(running, tmp_path)
        async with system.worker(Settings.model_validate(document)):
            before = running.broker.counts()
            result = await doctor(document, monkeypatch, tmp_path)
            assert (result.exit_code, lines(result, "✗"), lines(result, UNSEEN)) == (0, [], []), result.output
            assert running.broker.counts() == before
            status = await command(document, monkeypatch, tmp_path, "status", "--json")
            depths = json.loads(status.stdout)["depths"]
            assert depths["flow-requests"] == {"active": 0, "scheduled": 0, "dead_lettered": 0, "unknown": None}
        assert "a worker answers at http://127.0.0.1" in result.output
        assert "oid b7a4e2d9-3f58-4c61-8e0b-2f9d6c1a7e33" in result.output
        assert await system.calls("create-quote") == []
        for secret in ("eyJ", "SAS_KEY_VALUE", "triggers/manual", running.web.identity_header):
            assert secret not in result.output
    with sqlite3.connect(tmp_path / "journal.sqlite3") as journal:
        assert journal.execute("SELECT count(*) FROM entry WHERE expires < 10").fetchone() == (0,)
    journal.close()


FAULTS = {
    "flow-requests": {"MaxDeliveryCount": 1, "LockDuration": "PT5S", "DeadLetteringOnMessageExpiration": False},
    "flow-continuations": {"RequiresDuplicateDetection": False},
    "flow-replies": {"RequiresSession": False, "DefaultMessageTimeToLive": "PT1M"},
}
EXPECTED = (
    "queue flow-requests: lock: the lock of 0:00:05",
    "queue flow-requests: max delivery count: the max delivery count of 1",
    "queue flow-requests: expired messages: expired requests are deleted",
    "queue flow-continuations: duplicate detection: duplicate detection is off",
    "queue flow-continuations: sole sender: the policies stranger may send",
    "queue flow-replies: sessions: sessions are off",
    "queue flow-replies: time to live: the time to live of 0:01:00 is shorter",
    "queue absent: right to send: the queue does not exist",
    "queue absent: shape: the queue does not exist",
    "flow: old: prod-01.westeurope.logic.azure.com is a legacy address, which ended on 30 November 2025",
    "network: nowhere.invalid:443 (flow moved): the name nowhere.invalid cannot be resolved",
    "journal: sqlite",
    "port: health ",
    "issuer keys: ",
    "WhoAmI: queue 'dataverse-requests' is for the organization",
    "clock: broker: this machine's clock is ",
    "clock: issuer: this machine's clock is ",
    "clock: Dataverse: this machine's clock is ",
)


async def test_each_of_many_faults_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stranger = {"KeyName": "stranger", "Rights": ["Send"], "PrimaryKey": "k"}
    document = json.loads(config.DEFAULT.read_text(encoding="utf-8"))
    for queue in document["UserConfig"]["Namespaces"][0]["Queues"]:
        queue["Properties"] |= FAULTS.get(queue["Name"], {})
        if queue["Name"] == "flow-continuations":
            queue["AuthorizationRules"] = [stranger]
    async with emulator(config.parse(json.dumps(document)), monkeypatch) as running:
        wrong = _with_faults(settings_of(running, tmp_path), running, tmp_path)
        with socket.create_server(("127.0.0.1", wrong["health"]["port"])):
            await System(running, tmp_path).put("issuer", {"faults": [{"kind": "respond", "status": 503}]})
            await System(running, tmp_path).put(
                "dataverse", {"organization_id": "11111111-2222-3333-4444-555555555555"}
            )
            now = time.time
            monkeypatch.setattr("flow_worker.doctor.clocks.wall", lambda: now() + 600)
            result = await doctor(wrong, monkeypatch, tmp_path)
    failed = lines(result, "✗")
    assert result.exit_code == 1, result.output
    assert [one for one in EXPECTED if not any(one in line for line in failed)] == [], result.output
    assert [line for line in failed if " → " not in line] == [], "each has a remedy"
    assert "Traceback" not in result.output
    assert "SAS_KEY_VALUE" not in result.output


def _with_faults(document: JsonObject, running: Emulator, folder: Path) -> JsonObject:
    (folder / "journal.sqlite3").write_bytes(b"no database " * 1000)
    flow = document["flows"]["create-quote"]
    return document | {
        "cloud": "public",
        "replies": {"queues": ["flow-replies", "absent"]},
        "request_queues": [
            {"name": "flow-requests"},
            {
                "name": "dataverse-requests",
                "authority": "dataverse",
                "organization": ORGANIZATION,
                "flows": {"new_StartQuote": "create-quote"},
            },
        ],
        "flows": {
            "create-quote": flow,
            "old": {"url": "https://prod-01.westeurope.logic.azure.com/workflows/a", "role": "R"},
            "moved": {"url": "https://nowhere.invalid/workflows/a", "role": "R"},
        },
        "flow_hosts": ["nowhere.invalid"],
    }


async def test_what_cannot_be_seen_is_said_and_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with emulator(config.load(None), monkeypatch, admin=False) as running:
        result = await doctor(settings_of(running, tmp_path), monkeypatch, tmp_path, "--json")
    report: dict[str, Any] = json.loads(result.stdout)
    assert (result.exit_code, report["ok"]) == (0, True), result.output
    unseen = {(check["subject"], check["name"]) for check in report["checks"] if check["outcome"] == "unseen"}
    assert unseen == {
        ("queue flow-requests", "shape"),
        ("queue flow-continuations", "shape"),
        ("queue flow-replies", "shape"),
        ("clock", "broker"),
    }
    assert all("--admin-port" in check["remedy"] for check in report["checks"] if check["outcome"] == "unseen")


async def test_missing_rights_are_named_with_the_role(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rules = [{"KeyName": "weak", "Rights": ["Send"], "PrimaryKey": "weak-key-of-the-test"}]
    document = json.loads(config.DEFAULT.read_text(encoding="utf-8"))
    document["UserConfig"]["Namespaces"][0]["AuthorizationRules"] = rules
    async with emulator(config.parse(json.dumps(document)), monkeypatch) as running:
        weak = settings_of(running, tmp_path)
        text = str(weak["servicebus"]["connection_string"])
        weak["servicebus"]["connection_string"] = text.replace("RootManageSharedAccessKey", "weak").replace(
            "SAS_KEY_VALUE", "weak-key-of-the-test"
        )
        result = await doctor(weak, monkeypatch, tmp_path)
    failed = lines(result, "✗")
    assert [line.split(": ")[0] for line in failed] == ["✗ queue flow-requests", "✗ queue flow-continuations"], (
        result.output
    )
    assert all("Azure Service Bus Data Receiver" in line for line in failed)
    assert len([line for line in lines(result, UNSEEN) if "lacks the Manage right" in line]) == 3
    assert "weak-key-of-the-test" not in result.output


async def test_a_broker_that_is_down_gives_one_line_a_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with emulator(config.load(None), monkeypatch) as running:
        document = settings_of(running, tmp_path)
        port = free_port()
        document["servicebus"]["connection_string"] = (
            f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=n;SharedAccessKey=hush-hush;UseDevelopmentEmulator=true"
        )
        result = await doctor(document, monkeypatch, tmp_path)
    assert result.exit_code == 1
    failed = lines(result, "✗")
    assert any(line.startswith(f"✗ network: 127.0.0.1:{port} (Service Bus)") for line in failed), result.output
    assert "Traceback" not in result.output
    assert "hush-hush" not in result.output


async def test_a_moved_clock_of_the_broker_is_said_in_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with emulator(config.load(None), monkeypatch) as running:
        await System(running, tmp_path).put("servicebus", {"advance_seconds": 600})
        result = await doctor(settings_of(running, tmp_path), monkeypatch, tmp_path)
    (failed,) = lines(result, "✗")
    assert re.match("✗ clock: broker: this machine's clock is (599|600|601) s behind", failed), result.output


async def test_an_unusable_environment_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with emulator(config.load(None), monkeypatch) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
        result = await doctor(settings_of(running, tmp_path), monkeypatch, tmp_path)
    assert result.exit_code == 1
    (failed,) = lines(result, "✗")
    assert "SSL_CERT_FILE" in failed


def test_settings_that_cannot_be_read_end_with_status_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plain = CliRunner().invoke(cli, ["doctor"])
    assert plain.exit_code == 2
    in_json = CliRunner().invoke(cli, ["doctor", "--json"])
    assert in_json.exit_code == 2
    assert "claims: required" in " ".join(json.loads(in_json.stdout)["settings"])


SINKS: JsonObject = {
    "rows": {"kind": "dataverse_row"},
    "bell": {"kind": "in_app_notification", "opens": "rows"},
    "unused": {"kind": "in_app_notification"},
}


async def test_the_role_and_the_table_that_sinks_need_are_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with emulator(config.load(None), monkeypatch) as running:
        document = settings_of(running, tmp_path) | {"delivery": SINKS, "run_records": {"enabled": True}}
        document["request_queues"] = [{"name": "flow-requests", "deliver_to": ["rows", "bell"]}]
        url = running.web.dataverse_url
        sound = await doctor(document, monkeypatch, tmp_path)
        assert [line for line in lines(sound, "✗") if "delivery" in line] == []
        assert f"✓ delivery: rows: table at {url}: 'new_flowrequest' has the 20 columns of the sink" in sound.output
        assert f"✓ delivery: rows: privileges at {url}: the worker holds prvCreatenew_flowrequest" in sound.output
        assert f"{UNSEEN} delivery: unused: no request queue or flow delivers to it" in sound.output
        assert f"✓ run records: table at {url}: the flow runs can be read" in sound.output
        assert f"✓ run records: privileges at {url}: the worker holds prvReadflowrun (Organization)" in sound.output
        wrong = {"note": "new_httpstatus", "http_status": "new_note", "accepted_on": "new_runurl", "run_url": ""}
        document["delivery"] = SINKS | {"rows": {"kind": "dataverse_row", "columns": wrong}}
        mixed = await doctor(document, monkeypatch, tmp_path)
        finding = "columns of another type than the sink writes: new_note, new_httpstatus, new_runurl → Correct"
        assert finding in mixed.output
        # Without the privileges, and with a column that the table lacks.
        poor = {"prvReadUser": "Global", "prvReadnew_flowrequest": "Basic", "prvCreatenew_flowrequest": "Global"}
        await System(running, tmp_path).put("dataverse", {"application_privileges": poor})
        document["delivery"] = SINKS | {"rows": {"kind": "dataverse_row", "columns": {"note": "new_remark"}}}
        faulty = await doctor(document, monkeypatch, tmp_path)
        assert "'new_flowrequests' has no column 'new_remark' → Add it, or correct the sink's columns." in faulty.output
        missing = "prvReadnew_flowrequest (Organization), prvWritenew_flowrequest (Organization), prvActOnBehalfOf"
        assert f"✗ delivery: rows: privileges at {url}: the worker's role lacks {missing}" in faulty.output
        assert (
            f"✗ delivery: bell: privileges at {url}: the worker's role lacks prvCreateappnotification" in faulty.output
        )
        assert "the worker's role lacks prvReadflowrun (Organization)" in faulty.output
        assert "✗ run records: table at" in faulty.output
        # A table that does not exist, and an organization that does not answer.
        document["delivery"] = SINKS | {"rows": {"kind": "dataverse_row", "table": "new_other"}}
        absent = await doctor(document, monkeypatch, tmp_path)
        assert (
            "there is no table with the set name 'new_others', or the URL is wrong → Correct the sink" in absent.output
        )
        await System(running, tmp_path).put("dataverse", {"faults": [{"kind": "html", "status": 200}]})
        foreign = await doctor(document, monkeypatch, tmp_path)
        assert "the answer is none of Dataverse's Web API → Check the URL" in foreign.output
