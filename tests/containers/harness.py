"""Runs an emulator from the checkout and the worker's image beside it, on the host's loopback."""

from __future__ import annotations

import json
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

from flow_worker.demo.processes import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
ROLE = "Quotes.Create"
START_SECONDS = 60
STOP_SECONDS = 60
_SECOND = 1_000_000_000  # Docker takes the durations of a health check in nanoseconds


@dataclass(frozen=True, slots=True)
class Emulator:
    """The addresses of a running emulator, from its line `ready`."""

    connection_string: str
    identity_endpoint: str
    identity_header: str
    issuer: str
    audience: str
    flows_url: str

    @property
    def address(self) -> str:
        """The host:port of all its HTTP endpoints."""
        return self.issuer.split("/")[2]

    def mint(self, user: str, *roles: str) -> str:
        """Return a user's token for the worker's audience."""
        token_request = {"user": user, "roles": list(roles), "audience": self.audience}
        response = httpx.post(
            f"http://{self.address}/emulator/token", json=token_request, timeout=60
        ).raise_for_status()
        return str(response.json()["access_token"])

    def calls(self, flow: str) -> int:
        """Return the number of calls of the flow, including running ones."""
        response = httpx.get(f"http://{self.address}/emulator/flows/{flow}/calls", timeout=60).raise_for_status()
        return len(response.json()["calls"])


@contextmanager
def running_emulator(log: Path) -> Iterator[Emulator]:
    """Run an emulator as a separate process on free ports; its log goes to `log`."""
    command = [sys.executable, "-m", "servicebus_emulator", "serve", "--amqp-port", "0", "--http-port", "0"]
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=CHECKOUT) as process,
    ):
        try:
            assert process.stdout is not None
            word, _, document = process.stdout.readline().partition(" ")
            assert word == "ready", log.read_text(encoding="utf-8")
            ready = json.loads(document)
            yield Emulator(**{field.name: ready[field.name] for field in fields(Emulator)})
        finally:
            process.terminate()


def settings_for(emulator: Emulator) -> dict[str, str]:
    """Return the worker's settings as environment variables, as a container gets them."""
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
    """Run a worker, healthy from the start of the block, with the restrictions that a careful operator sets."""
    worker = container(image, settings_for(emulator) | on_loopback(free_port()))
    worker.with_kwargs(
        network="host",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        # the check of the image, but each second
        healthcheck={"interval": _SECOND, "timeout": 20 * _SECOND, "retries": START_SECONDS, "start_period": 0},
    )
    worker.waiting_for(HealthcheckWaitStrategy().with_startup_timeout(START_SECONDS).with_poll_interval(0.2))
    with worker:
        yield worker


def container(image: str, environment: Mapping[str, str]) -> DockerContainer:
    """Return a container of the image that has not started yet."""
    return DockerContainer(image).with_envs(**environment)


def on_loopback(port: int) -> dict[str, str]:
    """Return settings that bind the health endpoint to loopback.

    The image binds 0.0.0.0. On the host's network that would open the port on every interface of the machine.
    """
    return {"FLOW_WORKER_HEALTH__HOST": "127.0.0.1", "FLOW_WORKER_HEALTH__PORT": str(port)}


def stop(worker: DockerContainer) -> int:
    """Stop as `docker stop` does: SIGTERM, then SIGKILL (status 137) after `STOP_SECONDS`. Return the exit status."""
    worker.get_wrapped_container().stop(timeout=STOP_SECONDS)
    return worker.wait()
