"""The command line as a user runs it: real processes, real output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow_worker.demo.environment import ROLE, DemoEnvironment, running_demo
from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.timeout(180)


def flow_worker(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `flow-worker …` in `cwd`, without settings of the machine."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_WORKER_")}
    return subprocess.run(
        [sys.executable, "-m", "flow_worker", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=150,
        cwd=cwd,
        env=clean | {"PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "utf-8"} | (env or {}),
        check=False,
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoEnvironment]:
    with running_demo(tmp_path_factory.mktemp("stage")) as running:
        yield running


@pytest.fixture(scope="module")
def sender(stage: DemoEnvironment) -> dict[str, str]:
    return {
        "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": stage.emulator.connection_string,
        "FLOW_WORKER_CLAIM": stage.emulator.mint("ada", ROLE),
    }


def test_send_prints_the_id_that_result_finds(tmp_path: Path, sender: dict[str, str]) -> None:
    sent = flow_worker("send", "create-quote", "customer=Contoso", "amount:=125", cwd=tmp_path, env=sender)
    assert sent.returncode == 0, sent.stderr
    found = flow_worker("result", sent.stdout.strip(), "--wait", "30", cwd=tmp_path, env=sender)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["output"]["amount"] == 125
    again = flow_worker("result", sent.stdout.strip(), "--take", cwd=tmp_path, env=sender)
    assert json.loads(again.stdout) == json.loads(found.stdout)
    gone = flow_worker("result", sent.stdout.strip(), cwd=tmp_path, env=sender)
    assert (gone.returncode, gone.stdout) == (3, "")
    assert "No result for" in gone.stderr


def test_send_can_wait_and_tells_a_refusal_by_its_exit_status(tmp_path: Path, sender: dict[str, str]) -> None:
    (tmp_path / "input.json").write_text('{"customer": "x", "amount": -1}', encoding="utf-8")
    sent = flow_worker("send", "create-quote", "--input", "@input.json", "--wait", "30", cwd=tmp_path, env=sender)
    assert sent.returncode == 1, sent.stderr
    assert json.loads(sent.stdout)["error"]["code"] == "input_schema_mismatch"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "x", "no-equals-sign"], "write name=text or name:=json"),
        (["send", "x", "--input", "{"], "--input is not JSON"),
        (["send", "x", "--input", "@absent.json"], "absent.json"),
        (["send", "x", "a=b", "--input", "{}"], "not both"),
        (["send", "x", "--input", "[" * 100_000], "nested too deeply"),
        (["send", "x", "--wait", "-1"], "greater than or equal to 0"),
        (["send", "x", "--correlation-id", "x" * 200], "field 'correlation_id': must have at most 128 characters"),
        (["result", "x", "--config", "absent.toml"], "absent.toml: no such file"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_status_2(
    tmp_path: Path, sender: dict[str, str], arguments: list[str], said: str
) -> None:
    done = flow_worker(*arguments, cwd=tmp_path, env=sender)
    assert done.returncode == 2
    assert said in re.sub(r"\s+", " ", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_broker_that_is_not_there_is_told_and_not_a_traceback(tmp_path: Path, unused_tcp_port: int) -> None:
    nobody = (
        f"Endpoint=sb://127.0.0.1:{unused_tcp_port};SharedAccessKeyName=n;SharedAccessKey=hush;"
        "UseDevelopmentEmulator=true;"
    )
    done = flow_worker("send", "x", cwd=tmp_path, env={"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": nobody})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "hush" not in done.stderr


@pytest.mark.parametrize("command", ["run", "check", "health", "send", "result"])
def test_without_settings_every_command_says_what_is_missing(tmp_path: Path, command: str) -> None:
    arguments = {"send": ["send", "x"], "result": ["result", "x"]}.get(command, [command])
    done = flow_worker(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "FLOW_WORKER_SERVICEBUS" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_prints_the_settings_masked(stage: DemoEnvironment) -> None:
    env = {"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": stage.emulator.connection_string}
    done = flow_worker("check", "--config", "flow-worker.toml", cwd=stage.folder, env=env)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["servicebus"]["connection_string"] == "**********"
    assert shown["flows"]["create-quote"]["url"] == "**********"


def test_health_exits_with_0_for_a_ready_worker(stage: DemoEnvironment, tmp_path: Path, unused_tcp_port: int) -> None:
    env = {"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": stage.emulator.connection_string}
    ready = flow_worker("health", "--config", "flow-worker.toml", cwd=stage.folder, env=env)
    assert ready.returncode == 0
    assert json.loads(ready.stdout)["ready"] is True
    nobody = flow_worker("health", "--url", f"http://127.0.0.1:{unused_tcp_port}", cwd=tmp_path)
    assert nobody.returncode == 1
    no_address = flow_worker("health", "--url", "http://a\nb", cwd=tmp_path)
    assert (no_address.returncode, "Traceback" in no_address.stderr) == (1, False)


def test_the_worker_echoes_its_settings_without_secrets_and_never_logs_a_claim(
    stage: DemoEnvironment, tmp_path: Path, sender: dict[str, str]
) -> None:
    flow_worker("send", "create-quote", "customer=x", "amount:=1", "--wait", "30", cwd=tmp_path, env=sender)
    log = (stage.folder / "worker.log").read_text(encoding="utf-8")
    assert "request.completed" in log
    assert "SAS_KEY_VALUE" not in log
    assert sender["FLOW_WORKER_CLAIM"].split(".")[2] not in log
    assert "triggers/manual" not in log


def test_the_demo_ends_well_and_says_so_in_json(tmp_path: Path) -> None:
    done = flow_worker("demo", "--json", "--burst", "20", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    ended = {request["asked"].split(":")[0]: request for request in report["requests"]}
    came_back = {asked: request["came_back"] for asked, request in ended.items()}
    assert came_back["a front end asks for a quote"] == "succeeded"
    assert came_back["a sender without the role"] == "refused: role_missing"
    assert came_back["a forged claim"] == "refused: claim_invalid"
    assert came_back["a burst of 20"] == "20 of 20 succeeded"
    throttled, card = ended["a throttled flow, called again"], ended["an answer lost, not to be called twice"]
    assert (throttled["came_back"], throttled["calls"], throttled["result"]["attempts"]) == ("succeeded", 3, 3)
    assert (card["came_back"], card["calls"]) == ("unknown: flow_no_answer", 1)
    assert came_back["a flow that answers by status URL"] == "succeeded"
    given_up, replayed = ended["a flow that stays down, dead-lettered"], ended["the same, repaired and replayed"]
    assert (given_up["came_back"], replayed["came_back"]) == ("failed: NoResponse", "succeeded")
    assert given_up["correlation_id"] == replayed["correlation_id"]
    assert given_up["result"]["request_message_id"] != replayed["result"]["request_message_id"]
    assert came_back["a native Dataverse message"] == "succeeded"
    assert came_back["one whose user lacks the privilege"] == "refused: privilege_missing"
    assert came_back["a plug-in that asks for a user"] == "succeeded"
    assert came_back["one that waits out an outage of Dataverse"] == "succeeded"
    assert [dead["reason"] for dead in report["dead_letters"]] == ["correlation_id_too_long"]
    assert report["queues"]["flow-requests"]["dead_lettered"] == 1
    assert report["queues"]["flow-continuations"]["dead_lettered"] == 0
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
