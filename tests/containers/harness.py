"""An emulator started from the checkout, and the worker's image beside it on the host's loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import httpx
from pydantic import JsonValue
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HealthcheckWaitStrategy

CHECKOUT = Path(__file__).resolve().parents[2]
ROLE = "Quotes.Create"
START_SECONDS = 60
STOP_SECONDS = 60
_SECOND = 1_000_000_000  # Docker gives a health check's durations in nanoseconds


@dataclass(frozen=True, slots=True)
class Emulator:
    """What the emulator says when it is ready."""

    connection_string: str
    identity_endpoint: str
    identity_header: str
    issuer: str
    audience: str
    flows_url: str

    @property
    def address(self) -> str:
        """host:port of all that it serves over HTTP."""
        return self.issuer.split("/")[2]

    def mint(self, user: str, *roles: str) -> str:
        """A user's token for the worker's audience."""
        wanted = {"user": user, "roles": list(roles), "audience": self.audience}
        answer = httpx.post(f"http://{self.address}/emulator/token", json=wanted, timeout=10).raise_for_status()
        return str(answer.json()["access_token"])

    def calls(self, flow: str) -> int:
        """How many calls the flow has seen, those that are still running included."""
        answer = httpx.get(f"http://{self.address}/emulator/flows/{flow}/calls", timeout=10).raise_for_status()
        return len(answer.json()["calls"])


@contextmanager
def running_emulator(log: Path) -> Iterator[Emulator]:
    """A process of its own on free ports; what it logs is in `log`."""
    command = [sys.executable, "-m", "servicebus_emulator", "serve", "--amqp-port", "0", "--http-port", "0"]
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=CHECKOUT) as process,
    ):
        try:
            assert process.stdout is not None
            word, _, said = process.stdout.readline().partition(" ")
            assert word == "ready", log.read_text(encoding="utf-8")
            ready = json.loads(said)
            yield Emulator(**{field.name: ready[field.name] for field in fields(Emulator)})
        finally:
            process.terminate()


def settings_for(emulator: Emulator) -> dict[str, str]:
    """The worker's whole configuration as variables, as a container gets it."""
    authority, tenant, _ = emulator.issuer.rsplit("/", 2)
    nested: dict[str, JsonValue] = {
        "FLOW_WORKER_CLAIMS": {"authority": authority, "tenants": [tenant], "audiences": [emulator.audience]},
        "FLOW_WORKER_FLOWS": {name: _flow(emulator, name) for name in ("create-quote", "slow-report")},
        "FLOW_WORKER_PLAIN_HTTP_HOSTS": [emulator.address],
    }
    return {
        "IDENTITY_ENDPOINT": emulator.identity_endpoint,
        "IDENTITY_HEADER": emulator.identity_header,
        "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": emulator.connection_string,
        **{name: json.dumps(value) for name, value in nested.items()},
    }


def _flow(emulator: Emulator, name: str) -> JsonValue:
    url = f"{emulator.flows_url}/{name}/triggers/manual/paths/invoke?api-version=1"
    return {"url": url, "role": ROLE, "timeout_seconds": 30}


@contextmanager
def running_worker(image: str, emulator: Emulator) -> Iterator[DockerContainer]:
    """A healthy worker, confined as a careful operator would: nothing to write to, no capabilities."""
    worker = container(image, settings_for(emulator) | on_loopback(free_port()))
    worker.with_kwargs(
        network="host",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        # the image's own check, only more often
        healthcheck={"interval": _SECOND, "timeout": 20 * _SECOND, "retries": START_SECONDS, "start_period": 0},
    )
    worker.waiting_for(HealthcheckWaitStrategy().with_startup_timeout(START_SECONDS).with_poll_interval(0.2))
    with worker:
        yield worker


def container(image: str, environment: Mapping[str, str]) -> DockerContainer:
    """The image as it stands, not started yet."""
    return DockerContainer(image).with_envs(**environment)


def on_loopback(port: int) -> dict[str, str]:
    """On the host's network the image's 0.0.0.0 would be every interface of this machine."""
    return {"FLOW_WORKER_HEALTH__HOST": "127.0.0.1", "FLOW_WORKER_HEALTH__PORT": str(port)}


def stop(worker: DockerContainer) -> int:
    """`docker stop`: SIGTERM, then after `STOP_SECONDS` SIGKILL (status 137). Gives the exit status."""
    worker.get_wrapped_container().stop(timeout=STOP_SECONDS)
    return worker.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
