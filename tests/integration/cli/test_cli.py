"""The command line as a user runs it, with a worker's and an emulator's real processes.

The first test and the demo's run the command as a process too; the others run it in this one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow_contracts.reply_key import new_reply_key
from flow_worker.cli.request_commands import key_hint
from flow_worker.demo.environment import ROLE, DemoEnvironment, running_demo
from tests.support.command_line import run_command
from tests.support.otlp import Collector, running_collector
from tests.support.processes import CHECKOUT
from tests.support.system import JsonObject

pytestmark = pytest.mark.timeout(180)


def run_process(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `flow-worker …` as a process in `cwd`, without the settings of this machine."""
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
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoEnvironment]:
    with running_demo(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
def sender(environment: DemoEnvironment) -> dict[str, str]:
    return {
        "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": environment.emulator.connection_string,
        "FLOW_WORKER_CLAIM": environment.emulator.mint("ada", ROLE),
    }


def test_send_prints_the_correlation_id_for_result(tmp_path: Path, sender: dict[str, str]) -> None:
    sent = run_process("send", "create-quote", "customer=Contoso", "amount:=125", cwd=tmp_path, env=sender)
    assert sent.returncode == 0, sent.stderr
    polled = run_process("result", sent.stdout.strip(), "--wait", "30", cwd=tmp_path, env=sender)
    assert polled.returncode == 0, polled.stderr
    assert json.loads(polled.stdout)["output"]["amount"] == 125
    assert "The reply key is not printed here" in sent.stderr
    assert polled.stderr.startswith("The result is not verified")
    taken = run_process("result", sent.stdout.strip(), "--take", cwd=tmp_path, env=sender)
    assert json.loads(taken.stdout) == json.loads(polled.stdout)
    polled_again = run_process("result", sent.stdout.strip(), cwd=tmp_path, env=sender)
    assert (polled_again.returncode, polled_again.stdout) == (3, "")
    assert "There is no result for" in polled_again.stderr


def test_send_prints_the_ids_before_it_waits(tmp_path: Path, sender: dict[str, str]) -> None:
    """A user who ends the wait can still ask for the result."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_WORKER_")}
    with subprocess.Popen(
        [sys.executable, "-m", "flow_worker", "send", "long-approval", "customer=Contoso", "--wait", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        cwd=tmp_path,
        env=clean | {"PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "utf-8"} | sender,
    ) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        is_waiting = process.poll() is None
        process.kill()
    assert [line.split(":")[0] for line in lines] == ["Correlation ID", "Message ID"]
    assert is_waiting


def test_result_accepts_only_what_a_worker_signed_with_the_senders_key(tmp_path: Path, sender: dict[str, str]) -> None:
    with_key = sender | {"FLOW_WORKER_REPLY_KEY": new_reply_key().get_secret_value()}
    with_another = sender | {"FLOW_WORKER_REPLY_KEY": new_reply_key().get_secret_value()}
    sent = run_command("send", "create-quote", "customer=Contoso", "amount:=125", cwd=tmp_path, env=with_key)
    assert re.fullmatch(r"Message ID: [0-9a-f-]{36}\n", sent.stderr), "the sender knows the key"
    polled = run_command("result", sent.stdout.strip(), "--wait", "30", cwd=tmp_path, env=with_key)
    assert polled.returncode == 0, polled.stderr
    assert polled.stderr == ""
    foreign = run_command("result", sent.stdout.strip(), cwd=tmp_path, env=with_another)
    assert (foreign.returncode, foreign.stdout) == (3, "")
    assert "1 message was ignored: its MAC does not fit this reply key." in foreign.stderr
    malformed = run_command("result", "c", cwd=tmp_path, env=sender | {"FLOW_WORKER_REPLY_KEY": "s3cret"})
    assert malformed.returncode == 2
    assert "reply_key" in malformed.stderr
    assert malformed.stderr.strip().endswith("set FLOW_WORKER_REPLY_KEY"), "the TOML file refuses it"
    assert "s3cret" not in malformed.stderr


def test_send_prints_the_reply_key_for_a_program(tmp_path: Path, sender: dict[str, str]) -> None:
    sent = run_command("send", "create-quote", "customer=C", "amount:=7", "--json", cwd=tmp_path, env=sender)
    assert (sent.returncode, sent.stderr) == (0, "")
    printed = json.loads(sent.stdout)
    assert printed.keys() == {"correlation_id", "message_id", "reply_key"}
    with_key = sender | {"FLOW_WORKER_REPLY_KEY": printed["reply_key"]}
    polled = run_command("result", printed["correlation_id"], "--wait", "30", cwd=tmp_path, env=with_key)
    assert (polled.returncode, polled.stderr) == (0, "")
    assert json.loads(polled.stdout)["output"]["amount"] == 7


def test_send_prints_the_key_on_a_terminal_and_not_into_a_log() -> None:
    key = new_reply_key()
    assert f"FLOW_WORKER_REPLY_KEY={key.get_secret_value()} " in key_hint(key, on_terminal=True)
    assert key.get_secret_value() not in key_hint(key, on_terminal=False)


def test_send_with_wait_exits_with_1_for_a_refusal(tmp_path: Path, sender: dict[str, str]) -> None:
    (tmp_path / "input.json").write_text('{"customer": "x", "amount": -1}', encoding="utf-8")
    sent = run_command("send", "create-quote", "--input", "@input.json", "--wait", "30", cwd=tmp_path, env=sender)
    assert sent.returncode == 1, sent.stderr
    assert json.loads(sent.stdout)["error"]["code"] == "input_schema_mismatch"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["send", "x", "no-equals-sign"], "write name=text or name:=json"),
        (["send", "x", "--input", "{"], "--input is not JSON"),
        (["send", "x", "--input", "@absent.json"], "absent.json"),
        (["send", "x", "a=b", "--input", "{}"], "not both"),
        (["send", "x", "--input", "[" * 100_000], "nested too deeply"),
        (["send", "x", "--wait", "-1"], "must be at least 0"),
        (["send", "x", "--correlation-id", "x" * 200], "field 'correlation_id': must have at most 128 characters"),
        (["result", "x", "--config", "absent.toml"], "absent.toml: no such file"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_sentence(
    tmp_path: Path, sender: dict[str, str], arguments: list[str], message: str
) -> None:
    done = run_command(*arguments, cwd=tmp_path, env=sender)
    assert done.returncode == 2
    assert message in re.sub(r"\s+", " ", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["send", "result"])
def test_an_unreachable_broker_is_reported_without_a_traceback(
    tmp_path: Path, unused_tcp_port: int, command: str
) -> None:
    unreachable = (
        f"Endpoint=sb://127.0.0.1:{unused_tcp_port};SharedAccessKeyName=n;SharedAccessKey=hush;"
        "UseDevelopmentEmulator=true;"
    )
    environment = {"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": unreachable}
    done = run_command(command, "x", "--wait", "60", "--connect-seconds", "1", cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert f"Service Bus at 127.0.0.1:{unused_tcp_port} did not answer within 1 s (--connect-seconds)." in done.stderr
    assert "Traceback" not in done.stderr
    assert "hush" not in done.stderr


@pytest.mark.parametrize("command", ["run", "check", "send", "result"])
def test_every_command_names_the_missing_settings(tmp_path: Path, command: str) -> None:
    arguments = {"send": ["send", "x"], "result": ["result", "x"]}.get(command, [command])
    done = run_command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "FLOW_WORKER_SERVICEBUS" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_prints_the_settings_with_secrets_masked(environment: DemoEnvironment) -> None:
    env = {"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": environment.emulator.connection_string}
    done = run_command("check", "--config", "flow-worker.toml", cwd=environment.folder, env=env)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["servicebus"]["connection_string"] == "**********"
    assert shown["flows"]["create-quote"]["url"] == "**********"


def test_health_exits_with_0_for_a_ready_worker(
    environment: DemoEnvironment, tmp_path: Path, unused_tcp_port: int
) -> None:
    env = {"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": environment.emulator.connection_string}
    ready = run_command("health", "--config", "flow-worker.toml", cwd=environment.folder, env=env)
    assert ready.returncode == 0
    assert json.loads(ready.stdout)["ready"] is True
    unreachable = run_command("health", "--url", f"http://127.0.0.1:{unused_tcp_port}", cwd=tmp_path)
    assert unreachable.returncode == 1
    invalid = run_command("health", "--url", "http://a\nb", cwd=tmp_path)
    assert (invalid.returncode, "Traceback" in invalid.stderr) == (1, False)


def test_the_worker_prints_its_settings_without_secrets_and_never_logs_a_claim(
    environment: DemoEnvironment, tmp_path: Path, sender: dict[str, str]
) -> None:
    run_command("send", "create-quote", "customer=x", "amount:=1", "--wait", "30", cwd=tmp_path, env=sender)
    log = (environment.folder / "worker.log").read_text(encoding="utf-8")
    assert "request.completed" in log
    assert "SAS_KEY_VALUE" not in log
    assert sender["FLOW_WORKER_CLAIM"].split(".")[2] not in log
    assert "triggers/manual" not in log


@pytest.fixture(scope="module")
def demo_collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


def test_the_demo_succeeds_and_reports_it_as_json(tmp_path: Path, demo_collector: Collector) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": demo_collector.url}
    done = run_process("demo", "--json", "--burst", "20", cwd=tmp_path, env=endpoint)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    by_scenario = {request["scenario"]: request for request in report["requests"]}
    outcomes = {scenario: request["outcome"] for scenario, request in by_scenario.items()}
    assert outcomes["A front end requests a quote"] == "succeeded"
    assert outcomes["The sender lacks the app role"] == "refused: role_missing"
    assert outcomes["The claim is forged"] == "refused: claim_invalid"
    assert outcomes["A background integration sends a burst of 20 requests"] == "20 of 20 succeeded"
    throttled = by_scenario["The flow throttles; the worker calls it again"]
    card = by_scenario["The response is lost; the flow is not idempotent, so no second call"]
    assert (throttled["outcome"], throttled["calls"], throttled["result"]["attempts"]) == ("succeeded", 3, 3)
    assert (card["outcome"], card["calls"]) == ("unknown: flow_no_answer", 1)
    assert outcomes["The flow responds with a status URL, which the worker polls"] == "succeeded"
    given_up = by_scenario["The flow keeps failing; the worker dead-letters the request"]
    replayed = by_scenario["The flow is repaired; an operator replays the request"]
    assert (given_up["outcome"], replayed["outcome"]) == ("failed: NoResponse", "succeeded")
    assert given_up["correlation_id"] == replayed["correlation_id"]
    assert given_up["result"]["request_message_id"] != replayed["result"]["request_message_id"]
    assert outcomes["A native Dataverse message; its user holds the privilege"] == "succeeded"
    assert outcomes["A native Dataverse message; its user lacks the privilege"] == "refused: privilege_missing"
    assert outcomes["A plug-in sends a request on behalf of a user"] == "succeeded"
    assert outcomes["Dataverse is unavailable; the request waits"] == "succeeded"
    settled = by_scenario["Dataverse's record of the flow run settles it"]
    assert (settled["outcome"], settled["result"]["attempts"]) == ("succeeded, settled by flow_run", 1)
    assert settled["correlation_id"] == card["correlation_id"]
    assert outcomes["Its user's row in Dataverse holds the result"] == "succeeded"
    assert outcomes["The user gets a notification in the app that opens the row"] == "notified"
    assert [view["reason"] for view in report["dead_letters"]] == ["correlation_id_too_long"]
    assert report["queues"]["flow-requests"]["dead_lettered"] == 1
    assert report["queues"]["flow-continuations"]["dead_lettered"] == 0
    assert list(tmp_path.iterdir()) == []  # the demo leaves no files behind
    _require_traces(demo_collector, by_scenario)


def _require_traces(collector: Collector, by_scenario: dict[str, JsonObject]) -> None:
    """Each request of the demo has its trace in the collector, from the delivery to the result."""
    about = "messaging.message.conversation_id"
    for scenario in (
        "A front end requests a quote",
        "The sender lacks the app role",
        "The flow throttles; the worker calls it again",
        "The flow responds with a status URL, which the worker polls",
        "A native Dataverse message; its user holds the privilege",
    ):
        request = by_scenario[scenario]
        processes = [
            span
            for span in collector.spans
            if span.kind == "CONSUMER" and span.attributes.get(about) == request["correlation_id"]
        ]
        assert len({span.trace_id for span in processes}) == 1, scenario
        names = [span.name for span in collector.trace(processes[0].trace_id)]
        assert "send flow-replies" in names, (scenario, names)
        calls = sum(name.startswith("POST ") for name in names)
        assert calls == request["result"]["attempts"], (scenario, names)
    assert {span.attributes.get("flow_worker.status") for span in collector.spans} >= {
        "succeeded",
        "refused",
        "waiting",
    }
