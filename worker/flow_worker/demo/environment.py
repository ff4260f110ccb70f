"""The demo's stage: an emulator and a worker, each a process of its own, as a user would start them."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
from pydantic import JsonValue

from flow_worker.demo import flows

START_SECONDS = 30.0
STOP_SECONDS = 45.0

ROLE = "Quotes.Create"
ON_BEHALF = "Flow.Invoke.OnBehalf"
"""The app role by which an application may name a user."""
JOURNAL = "journal.sqlite3"
"""The worker's journal, in the folder it runs in."""
_STOP_SIGNAL = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
_TENANT_INDEX = 3  # http://host:port/{tenant}/v2.0


class DemoError(Exception):
    """The demo cannot go on; the message says why, and shows the end of the log of a process that is at fault."""


@dataclass(frozen=True, slots=True)
class EmulatorClient:
    """What the emulator said when it was ready."""

    connection_string: str
    identity_endpoint: str
    identity_header: str
    issuer: str
    audience: str
    flows_url: str
    dataverse_url: str
    dataverse_organization: str

    @property
    def web_url(self) -> str:
        """The base of everything the emulator serves over HTTP."""
        return "/".join(self.issuer.split("/")[:3])

    def mint(self, user: str, *roles: str, forged: bool = False, claims: Mapping[str, JsonValue] | None = None) -> str:
        """A token for the worker's own audience, as the issuer signs it, or forged; null takes a claim out."""
        wanted = {"user": user, "roles": list(roles), "forged": forged, "audience": self.audience}
        wanted["claims"] = dict(claims or {})
        answer = httpx.post(f"{self.web_url}/emulator/token", json=wanted, timeout=10)
        token: str = answer.raise_for_status().json()["access_token"]
        return token

    def control(self, method: str, what: str, body: Mapping[str, JsonValue]) -> None:
        """Change something of the emulator's, or have it do something. Raises `httpx.HTTPError`."""
        httpx.request(method, f"{self.web_url}/emulator/{what}", json=dict(body), timeout=10).raise_for_status()

    def object_id(self, user: str) -> str:
        """Of a user in Dataverse. Raises `httpx.HTTPError`."""
        answer = httpx.get(f"{self.web_url}/emulator/dataverse", timeout=10).raise_for_status()
        return next(str(one["object_id"]) for one in answer.json()["users"] if one["name"] == user)

    def activity(self, flow: str, correlation_id: str) -> FlowActivity:
        """What a flow has seen of a request."""
        answer = httpx.get(f"{self.web_url}/emulator/flows/{flows.target(flow)}/calls", timeout=10)
        calls = answer.json()["calls"] if answer.status_code == 200 else []  # 404: there is no such flow
        ours = [call for call in calls if call["client_tracking_id"] == correlation_id]
        return FlowActivity(calls=len(ours), polls=sum(call["polls"] for call in ours))


@dataclass(frozen=True, slots=True)
class FlowActivity:
    """How often a flow was called, and how often its status URL was asked."""

    calls: int
    polls: int


@dataclass(frozen=True, slots=True)
class DemoEnvironment:
    """Both processes, running."""

    emulator: EmulatorClient
    folder: Path
    worker: subprocess.Popen[str]


@contextmanager
def running_demo(folder: Path) -> Iterator[DemoEnvironment]:
    """Start both, stop both. Logs and settings are in `folder`. Raises `DemoError`."""
    with ExitStack() as stack:
        emulator = stack.enter_context(running_emulator(folder))
        flows.define(emulator.web_url)
        worker = stack.enter_context(running_worker(folder, emulator, worker_settings))
        yield DemoEnvironment(emulator, folder, worker)


@contextmanager
def running_emulator(folder: Path) -> Iterator[EmulatorClient]:
    """An emulator on free ports. Raises `DemoError`."""
    command = [sys.executable, "-m", "servicebus_emulator", "serve", "--amqp-port", "0", "--http-port", "0"]
    log = folder / "emulator.log"
    with log.open("w", encoding="utf-8") as errors:
        process = _start(command, stdout=subprocess.PIPE, stderr=errors, cwd=folder, env=os.environ)
        try:
            yield _ready(process, log)
        finally:
            _stop(process, "the emulator")


def _ready(process: subprocess.Popen[str], log: Path) -> EmulatorClient:
    """Wait for the line `ready {…}`."""
    assert process.stdout is not None  # noqa: S101 - it was asked for above
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True, name="emulator stdout").start()
    try:
        line = lines.get(timeout=START_SECONDS)
    except queue.Empty:
        raise DemoError(f"The emulator was not ready within {START_SECONDS:g} s.\n{_tail(log)}") from None
    if not line.startswith("ready "):
        raise DemoError(f"The emulator did not start.\n{_tail(log)}")
    said = json.loads(line.removeprefix("ready "))
    return EmulatorClient(**{name: said[name] for name in EmulatorClient.__dataclass_fields__})


def _pump(stream: IO[str], lines: queue.Queue[str]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")  # the end: whoever waits is told


@contextmanager
def running_worker(
    folder: Path, emulator: EmulatorClient, settings: Callable[[EmulatorClient, int], str]
) -> Iterator[subprocess.Popen[str]]:
    """A worker that is ready. `settings`: its TOML file, given its health port. Raises `DemoError`."""
    port = _free_port()
    (folder / "flow-worker.toml").write_text(settings(emulator, port), encoding="utf-8")
    log = folder / "worker.log"
    with log.open("w", encoding="utf-8") as errors:
        command = [sys.executable, "-m", "flow_worker", "run"]
        process = _start(command, stdout=None, stderr=errors, cwd=folder, env=worker_environment(emulator))
        try:
            _wait_ready(process, port, log)
            yield process
        finally:
            _stop(process, "the worker")


def worker_environment(emulator: EmulatorClient) -> Mapping[str, str]:
    """The worker's variables: this process's own, without settings of another worker."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_WORKER_")}
    return inherited | {
        "IDENTITY_ENDPOINT": emulator.identity_endpoint,
        "IDENTITY_HEADER": emulator.identity_header,
        "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": emulator.connection_string,
        "FLOW_WORKER_CONFIG": "flow-worker.toml",
    }


def worker_settings(emulator: EmulatorClient, health_port: int) -> str:
    """The worker's TOML file for the emulator's default queues and flows."""
    parts = emulator.issuer.split("/")
    host = parts[2]
    return f"""plain_http_hosts = ["{host}"]
shutdown_grace_seconds = 20

[claims]
authority = "{"/".join(parts[:_TENANT_INDEX])}"
tenants = ["{parts[_TENANT_INDEX]}"]
audiences = ["{emulator.audience}"]
unknown_key_cooldown_seconds = 5  # a restarted emulator signs with a new key
asserter_role = "{ON_BEHALF}"

[dataverse]
url = "{emulator.dataverse_url}"

[[request_queues]]
name = "flow-requests"
lanes = 8

[[request_queues]]
name = "dataverse-requests"
authority = "dataverse"
organization = "{emulator.dataverse_organization}"
flows = {{ "new_StartQuote" = "private-quote" }}
lanes = 2

[servicebus]
receive_wait_seconds = 1

[journal]
path = "{JOURNAL}"

[retry]
base_seconds = 0.5
poll_seconds = 0.5

[health]
port = {health_port}

{flows.as_toml(emulator.flows_url, ROLE)}"""


def _wait_ready(process: subprocess.Popen[str], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"The worker ended at once, with status {process.returncode}.\n{_tail(log)}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise DemoError(f"The worker was not ready within {START_SECONDS:g} s.\n{_tail(log)}")


def _start(
    command: list[str], *, stdout: int | None, stderr: IO[str], cwd: Path, env: Mapping[str, str]
) -> subprocess.Popen[str]:
    """A process in a group of its own, so that Ctrl-C reaches the demo alone and it can stop the two in order."""
    if sys.platform == "win32":
        flags, new_session = subprocess.CREATE_NEW_PROCESS_GROUP, False
    else:
        flags, new_session = 0, True
    return subprocess.Popen(  # noqa: S603 - our own commands
        command,
        stdout=stdout,
        stderr=stderr,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        env=env,
        creationflags=flags,
        start_new_session=new_session,
    )


def _stop(process: subprocess.Popen[str], name: str) -> None:
    """Ask to stop, as a user would: SIGTERM, or Ctrl-Break where there are no signals."""
    if process.poll() is None:
        process.send_signal(_STOP_SIGNAL)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise DemoError(f"Asked to stop, {name} did not within {STOP_SECONDS:g} s.") from None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
