"""The command line in separate processes, as a user runs it."""

import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusAuthenticationError

START_SECONDS = 30
COMMAND = [sys.executable, "-m", "servicebus_emulator"]
FREE_PORTS = ["--amqp-port", "0", "--http-port", "0"]

if sys.platform == "win32":
    _STOP, _FLAGS = signal.CTRL_BREAK_EVENT, subprocess.CREATE_NEW_PROCESS_GROUP
else:
    _STOP, _FLAGS = signal.SIGTERM, 0


@dataclass(frozen=True)
class RunningEmulator:
    process: subprocess.Popen[str]
    lines: "queue.Queue[str]"
    ready: Mapping[str, str | None]

    @property
    def url(self) -> str:
        return str(self.ready["flows_url"]).partition("/powerautomate")[0]

    def stop(self) -> int:
        """Send the stop signal of the platform; return the exit status."""
        self.process.send_signal(_STOP)
        return self.process.wait(START_SECONDS)


@contextmanager
def serving(*options: str) -> Iterator[RunningEmulator]:
    process = subprocess.Popen(
        [*COMMAND, "serve", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, creationflags=_FLAGS
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_read_all, args=(process, lines), daemon=True)
    reader.start()
    try:
        line = lines.get(timeout=START_SECONDS)
        assert line.startswith("ready "), line
        yield RunningEmulator(process, lines, json.loads(line.removeprefix("ready ")))
    finally:
        process.kill()
        process.wait()
        reader.join()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def _read_all(process: subprocess.Popen[str], lines: "queue.Queue[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=START_SECONDS, check=False)


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    began = time.perf_counter()
    with serving(*FREE_PORTS) as running:
        print(f"ready after {time.perf_counter() - began:.2f} s")  # noqa: T201 - information only: machines differ
        yield running


def test_the_ready_line_has_every_address_a_program_needs(emulator: RunningEmulator) -> None:
    assert set(emulator.ready) == {
        "connection_string",
        "amqps_url",
        "amqps_connection_string",
        "ws_url",
        "wss_url",
        "ca_certificate",
        "admin_url",
        "admin_https_url",
        "identity_endpoint",
        "identity_header",
        "issuer",
        "audience",
        "flows_url",
        "dataverse_url",
        "dataverse_organization",
    }
    assert emulator.ready["admin_url"] is None
    assert emulator.ready["audience"] == "api://flow-worker"
    parts = dict(part.split("=", 1) for part in str(emulator.ready["connection_string"]).rstrip(";").split(";"))
    assert parts["UseDevelopmentEmulator"] == "true"
    assert parts["SharedAccessKeyName"] == "RootManageSharedAccessKey"
    host, _, port = parts["Endpoint"].removeprefix("sb://").partition(":")
    socket.create_connection((host, int(port)), timeout=5).close()
    discovery = httpx.get(f"{emulator.ready['issuer']}/.well-known/openid-configuration")
    assert discovery.json()["issuer"] == emulator.ready["issuer"]
    assert emulator.lines.empty(), "only the ready line goes to stdout"


def _send_with_a_wrong_key(emulator: RunningEmulator) -> None:
    text = str(emulator.ready["connection_string"]).replace("SAS_KEY_VALUE", "wrong")
    with ServiceBusClient.from_connection_string(text, retry_total=0) as client:
        client.get_queue_sender("flow-requests").send_messages(ServiceBusMessage("x"))


def test_keys_are_checked_unless_access_is_open(emulator: RunningEmulator) -> None:
    with pytest.raises(ServiceBusAuthenticationError):
        _send_with_a_wrong_key(emulator)
    with serving(*FREE_PORTS, "--access", "open") as unchecked:
        _send_with_a_wrong_key(unchecked)


def test_a_certificate_without_its_key_is_refused_before_anything_listens(tmp_path: Path) -> None:
    result = run("serve", *FREE_PORTS, "--amqps-port", "0", "--certificate", str(tmp_path / "own.pem"))
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["A certificate and its private key go together: give both files, or neither"]


def test_token_prints_only_the_token(emulator: RunningEmulator) -> None:
    result = run("token", "--user", "ada", "--role", "Quotes.Create", "--role", "Reports.Run", "--url", emulator.url)
    assert result.returncode == 0, result.stderr
    claims = jwt.decode(result.stdout.removesuffix("\n"), options={"verify_signature": False})
    assert claims["roles"] == ["Quotes.Create", "Reports.Run"]
    assert (claims["aud"], claims["iss"]) == ("api://flow-worker", emulator.ready["issuer"])


def test_token_issues_forged_and_expired_tokens_for_any_audience(emulator: RunningEmulator) -> None:
    port = emulator.url.rpartition(":")[2]
    result = run("token", "--user", "a", "--forged", "--expires-in", "-60", "--audience", "x", "--http-port", port)
    token = result.stdout.strip()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["aud"] == "x"
    assert claims["exp"] < time.time() - 50
    keys = jwt.PyJWKClient(httpx.get(f"{emulator.ready['issuer']}/.well-known/openid-configuration").json()["jwks_uri"])
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, keys.get_signing_key_from_jwt(token), algorithms=["RS256"])


def test_token_reports_an_unreachable_emulator_and_a_refusal(emulator: RunningEmulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    result = run("token", "--user", "ada", "--url", url)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"No emulator answers at {url}" in result.stderr
    assert "Traceback" not in result.stderr
    result = run("token", "--user", "", "--url", emulator.url)
    assert (result.returncode, result.stdout) == (1, "")
    assert "refused: user:" in result.stderr


@pytest.mark.parametrize("option", ["--amqp-port", "--http-port"])
def test_a_port_in_use_is_named_with_its_option(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = dict(zip(FREE_PORTS[::2], FREE_PORTS[1::2], strict=True)) | {option: port}
        result = run("serve", *(word for pair in options.items() for word in pair))
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Cannot listen on 127.0.0.1:{port}: ")
    assert line.endswith(option)


def test_an_unknown_host_is_named_with_its_option() -> None:
    result = run("serve", "--host", "300.1.1.1", *FREE_PORTS)
    assert (result.returncode, result.stdout) == (1, "")
    assert "there is no address 300.1.1.1; choose another with --host" in result.stderr


def test_an_invalid_configuration_is_reported_in_one_line_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"UserConfig": {"Namespaces": []}, "FlowWorker": {"Flows": [{"Nam": "a"}]}}', encoding="utf-8")
    result = run("serve", "--config", str(file), *FREE_PORTS)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Configuration {file}: FlowWorker.Flows[0].")
    assert len(result.stderr.splitlines()) == 1


def test_a_stop_signal_ends_the_emulator_with_status_0_even_with_clients_connected(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"UserConfig": {"Namespaces": [{"Name": "n", "Queues": [{"Name": "q"}]}]}}', encoding="utf-8")
    with serving("--config", str(file), *FREE_PORTS) as running, httpx.Client() as client:
        client.get(f"{running.ready['issuer']}/.well-known/openid-configuration")
        endpoint = str(running.ready["connection_string"]).partition(";")[0].removeprefix("Endpoint=sb://")
        host, _, port = endpoint.partition(":")
        with socket.create_connection((host, int(port)), timeout=5):
            assert running.stop() == 0
        assert running.process.stderr is not None
        assert "Traceback" not in running.process.stderr.read()
