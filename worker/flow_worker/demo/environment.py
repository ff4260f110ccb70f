"""The demo's environment: an emulator and a worker, each a separate process, as a user would start them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import JsonValue

from flow_worker.demo import flows, gateway, processes
from flow_worker.demo.processes import EMULATOR_LOCK, WORKER_LOCK, DemoError

START_SECONDS = 30.0

ROLE = "Quotes.Create"
"""The app role that the demo's flows require."""
ON_BEHALF = "Flow.Invoke.OnBehalf"
"""The app role of applications that may name a user."""
GRACE_SECONDS = 4
"""The time from an `unknown` result to the search for its run. The sender reads the result in about two seconds."""
JOURNAL = "journal.sqlite3"
"""The worker's journal, in its working directory."""
SETTINGS = "flow-worker.toml"
"""The worker's settings, in its working directory."""
Row = Mapping[str, JsonValue]
"""A row of a Dataverse table: the columns by logical name."""
_READY = "ready "
_TENANT_INDEX = 3  # of http://host:port/{tenant}/v2.0, split at the slashes


@dataclass(frozen=True, slots=True)
class EmulatorClient:
    """The endpoints that a running emulator announced, and a client of its control API."""

    connection_string: str
    identity_endpoint: str
    identity_header: str
    issuer: str
    audience: str
    flows_url: str
    dataverse_url: str
    dataverse_organization: str

    @classmethod
    def from_ready_line(cls, line: str) -> EmulatorClient:
        """Parse the emulator's line `ready {…}`. Raise `ValueError` for any other line."""
        if not line.startswith(_READY):
            raise ValueError("the line does not begin with 'ready'")
        announced = json.loads(line.removeprefix(_READY))
        return cls(**{name: announced[name] for name in cls.__dataclass_fields__})

    @property
    def web_url(self) -> str:
        """The base URL of everything the emulator serves over HTTP."""
        return "/".join(self.issuer.split("/")[:3])

    def mint(self, user: str, *roles: str, forged: bool = False, claims: Mapping[str, JsonValue] | None = None) -> str:
        """Return a token for the worker's audience; a claim with the value None is removed."""
        request = {"user": user, "roles": list(roles), "forged": forged, "audience": self.audience}
        request["claims"] = dict(claims or {})
        response = httpx.post(f"{self.web_url}/emulator/token", json=request, timeout=60)
        token: str = response.raise_for_status().json()["access_token"]
        return token

    def control(self, method: str, path: str, body: Mapping[str, JsonValue]) -> None:
        """Send a request to the control API at `/emulator/{path}`. Raise `httpx.HTTPError`."""
        httpx.request(method, f"{self.web_url}/emulator/{path}", json=dict(body), timeout=60).raise_for_status()

    def object_id(self, user: str) -> str:
        """Return the object ID of a Dataverse user. Raise `httpx.HTTPError`."""
        return str(self._user(user)["object_id"])

    def system_user_id(self, user: str) -> str:
        """Return the `systemuserid` of a Dataverse user. Raise `httpx.HTTPError`."""
        return str(self._user(user)["system_user_id"])

    def _user(self, name: str) -> Row:
        response = httpx.get(f"{self.web_url}/emulator/dataverse", timeout=60).raise_for_status()
        users: list[Row] = response.json()["users"]
        return next(user for user in users if user["name"] == name)

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a Dataverse table by its set name. Raise `httpx.HTTPError`."""
        response = httpx.get(f"{self.web_url}/emulator/dataverse/rows/{table}", timeout=60).raise_for_status()
        rows: list[Row] = response.json()["rows"]
        return rows

    def activity(self, flow: str, correlation_id: str) -> FlowActivity:
        """Return a flow's counts for one request; zeros for an unknown flow."""
        response = httpx.get(f"{self.web_url}/emulator/flows/{flows.emulator_name(flow)}/calls", timeout=60)
        calls = response.json()["calls"] if response.status_code == 200 else []
        matching = [call for call in calls if call["client_tracking_id"] == correlation_id]
        return FlowActivity(calls=len(matching), polls=sum(call["polls"] for call in matching))


@dataclass(frozen=True, slots=True)
class FlowActivity:
    """The number of calls of a flow, and of status polls, for one request."""

    calls: int
    polls: int


@dataclass(frozen=True, slots=True)
class DemoEnvironment:
    """The running emulator, worker and gateway."""

    emulator: EmulatorClient
    folder: Path
    worker: subprocess.Popen[str]
    metrics_url: str
    """The worker's page for Prometheus."""
    gateway_metrics_url: str
    """The gateway's page for Prometheus."""
    gateway_url: str
    """The URL of the HTTP gateway."""

    def worker_log_tail(self) -> str:
        """Return the last lines of the worker's log."""
        return processes.log_tail(_worker_log(self.folder))


@contextmanager
def running_demo(folder: Path, announce: Callable[[str, str], None] = lambda *_: None) -> Iterator[DemoEnvironment]:
    """Start the processes, and stop them at the end. Logs and settings are in `folder`. Raise `DemoError`.

    `announce` learns the metrics' URLs of worker and gateway before these start: a scraper sees the counters at 0.
    """
    with ExitStack() as stack:
        emulator = stack.enter_context(running_emulator(folder))
        flows.define(emulator.web_url)
        port, ports = processes.free_port(), gateway.GatewayPorts.free()

        def settings(client: EmulatorClient, health_port: int) -> str:
            return worker_settings(client, health_port) + gateway.settings(ports, client.web_url)

        (folder / SETTINGS).write_text(settings(emulator, port), encoding="utf-8")
        metrics_url = f"http://127.0.0.1:{port}/metrics"
        announce(metrics_url, ports.metrics_url)
        # The worker and the gateway start side by side.
        front = stack.enter_context(gateway.running_gateway(folder, worker_environment(emulator)))
        worker = stack.enter_context(running_worker(folder, emulator, settings, port))
        gateway.wait_until_ready(front, ports, folder)
        emulator.control("PUT", "page", {"gateway": ports.url})
        yield DemoEnvironment(emulator, folder, worker, metrics_url, ports.metrics_url, ports.url)


@contextmanager
def running_emulator(folder: Path) -> Iterator[EmulatorClient]:
    """Run an emulator on free ports until the block ends. Raise `DemoError`."""
    module = ["servicebus_emulator", "serve", "--amqp-port", "0", "--http-port", "0"]
    log = folder / "emulator.log"
    with log.open("w", encoding="utf-8") as errors:
        process = processes.start(
            module, lock=EMULATOR_LOCK, stdout=subprocess.PIPE, stderr=errors, cwd=folder, env=os.environ
        )
        try:
            yield _wait_for_emulator(process, log)
        finally:
            processes.stop(process, "emulator")


def _wait_for_emulator(process: subprocess.Popen[str], log: Path) -> EmulatorClient:
    assert process.stdout is not None  # noqa: S101 - a pipe, for the type checker
    line = processes.first_line(process.stdout, START_SECONDS)
    if line is None:
        raise DemoError(f"The emulator was not ready within {START_SECONDS:g} s.\n{processes.log_tail(log)}")
    try:
        return EmulatorClient.from_ready_line(line)
    except ValueError:
        raise DemoError(f"The emulator did not start.\n{processes.log_tail(log)}") from None


@contextmanager
def running_worker(
    folder: Path, emulator: EmulatorClient, settings: Callable[[EmulatorClient, int], str], port: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a worker that is ready until the block ends. Raise `DemoError`.

    `settings` returns its TOML file for an emulator and a health port; `port` is that port, by default a free one.
    """
    port = port or processes.free_port()
    (folder / SETTINGS).write_text(settings(emulator, port), encoding="utf-8")
    log = _worker_log(folder)
    with log.open("w", encoding="utf-8") as errors:
        environment = worker_environment(emulator)
        process = processes.start(
            ["flow_worker", "run"], lock=WORKER_LOCK, stdout=None, stderr=errors, cwd=folder, env=environment
        )
        try:
            _wait_for_worker(process, port, log)
            yield process
        finally:
            processes.stop(process, "worker")


def _worker_log(folder: Path) -> Path:
    return folder / "worker.log"


def _wait_for_worker(process: subprocess.Popen[str], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            status = process.returncode
            raise DemoError(f"The worker exited during its start, with status {status}.\n{processes.log_tail(log)}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise DemoError(f"The worker was not ready within {START_SECONDS:g} s.\n{processes.log_tail(log)}")


def worker_environment(emulator: EmulatorClient) -> Mapping[str, str]:
    """Return the worker's environment: this process's own, without the settings of another worker."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_WORKER_")}
    return inherited | {
        "IDENTITY_ENDPOINT": emulator.identity_endpoint,
        "IDENTITY_HEADER": emulator.identity_header,
        "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": emulator.connection_string,
        "FLOW_WORKER_CONFIG": SETTINGS,
    }


def worker_settings(emulator: EmulatorClient, health_port: int) -> str:
    """Return the worker's TOML file for the emulator's default queues and the demo's flows."""
    parts = emulator.issuer.split("/")
    host = parts[2]
    return f"""plain_http_hosts = ["{host}"]
shutdown_grace_seconds = 20
explain_refusals = true  # so that the demo shows why; leave it out in production

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
deliver_to = ["row", "bell"]
lanes = 2

[[request_queues]]
name = "flow-requests-gateway"
authority = "gateway"
reply_to = "flow-replies-gateway"
lanes = 4

[delivery.row]
kind = "dataverse_row"

[delivery.bell]
kind = "in_app_notification"
opens = "row"

[outbox]
interval_seconds = 0.5

[run_records]  # for flows with run_records = true
grace_seconds = {GRACE_SECONDS}
pause_seconds = 0.5

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
