"""The plug-in docs/samples/StartQuote.cs, compiled with Mono and run: it starts a flow through emulator and worker.

Only Dataverse is missing: `csharp` has stand-ins for the types of its SDK, and a host that calls the plug-in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from flow_worker.demo.environment import ON_BEHALF, ROLE, EmulatorClient, running_worker, worker_settings
from flow_worker.demo.processes import free_port
from servicebus_emulator import config
from servicebus_emulator.cloud.entra.issuer import object_id_of
from tests.clients.harness import HERE, running
from tests.support.processes import CHECKOUT

SAMPLE = CHECKOUT / "docs" / "samples" / "StartQuote.cs"
QUEUE = "https://contoso.servicebus.windows.net/flow-requests-plugins"
REFERENCES = ("System.Net.Http.dll", "System.Runtime.Serialization.dll")
SECONDS = 10
USER = str(object_id_of("ada"))
PLUGIN = config.load(None).http.identity.managed_identity.object_id


@dataclass(frozen=True)
class Stage:
    """The parts of the emulator that the plug-in needs."""

    emulator: EmulatorClient
    namespace: str
    bus_token: str
    folder: Path

    def run(self, url: str | None = None, bus_token: str | None = None) -> str:
        """Compile the plug-in for this queue URL, run it, and return the output of the host."""
        program = compiled(self.folder, url or f"{self.namespace}/flow-requests")
        tokens = {
            "BUS_TOKEN": bus_token or self.bus_token,
            "WORKER_TOKEN": token(self.emulator, self.emulator.audience),
        }
        command = ["mono", str(program), USER, str(uuid.uuid4())]
        process = subprocess.run(
            command, env=os.environ | tokens, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert process.returncode == 0, process.stderr
        assert not [name for name, token in tokens.items() if token in process.stdout], "a token is in the error"
        return process.stdout


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An emulator with its REST side, and a worker that is ready."""
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("no Mono; .ci/run names the Debian packages")
    folder = tmp_path_factory.mktemp("csharp")
    with running(folder, None, "--admin-port", "0") as ready:
        emulator = EmulatorClient(**{name: ready[name] for name in EmulatorClient.__dataclass_fields__})
        with running_worker(folder, emulator, settings):
            yield Stage(emulator, ready["admin_url"], token(emulator, "https://servicebus.azure.net"), folder)


def settings(emulator: EmulatorClient, health_port: int) -> str:
    """Return the demo settings; the plug-in's identity may name a user, and its flow requires only a privilege."""
    document = worker_settings(emulator, health_port).split("[flows.create-quote-unchecked]")
    own = document[0].replace(f'asserter_role = "{ON_BEHALF}"', f'asserters = ["{PLUGIN}"]')
    own = own.replace(f'role = "{ROLE}"', 'privilege = "prvCreatenew_quote"')
    return "[flows.create-quote-unchecked]".join([own, *document[1:]])


def token(emulator: EmulatorClient, resource: str) -> str:
    """Return a token of the managed identity from its endpoint."""
    query = {"api-version": "2019-08-01", "resource": resource}
    secret = {"X-IDENTITY-HEADER": emulator.identity_header}
    answer = httpx.get(emulator.identity_endpoint, params=query, headers=secret, timeout=10).raise_for_status()
    given: str = answer.json()["access_token"]
    return given


def compiled(folder: Path, url: str) -> Path:
    """Compile the host with the sample, in which only the URL of the queue is replaced."""
    source = SAMPLE.read_text(encoding="utf-8")
    assert source.count(QUEUE) == 1
    (folder / "StartQuote.cs").write_text(source.replace(QUEUE, url), encoding="utf-8")
    program = folder / "host.exe"
    sources = [folder / "StartQuote.cs", *sorted((HERE / "csharp").glob("*.cs"))]
    options = ["-langversion:7", "-warnaserror", f"-out:{program}", *(f"-r:{name}" for name in REFERENCES)]
    process = subprocess.run(
        ["mcs", *options, *map(str, sources)], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return program


def test_the_plugin_starts_its_flow(stage: Stage) -> None:
    output = stage.run()
    assert output.startswith(f"MessageId {USER}/"), output
    correlation_id = output.split()[1]
    deadline = time.monotonic() + SECONDS
    while (
        not (activity := stage.emulator.activity("create-quote", correlation_id)).calls and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert activity.calls == 1, (stage.folder / "worker.log").read_text(encoding="utf-8")


def test_the_plugin_reports_a_missing_queue(stage: Stage) -> None:
    assert stage.run(f"{stage.namespace}/nowhere").startswith("refused Service Bus answered 404.")


def test_the_plugin_reports_a_refused_token(stage: Stage) -> None:
    assert stage.run(bus_token=f"{stage.bus_token[:-4]}AAAA").startswith("refused Service Bus answered 401.")


def test_the_plugin_reports_an_unreachable_service_bus(stage: Stage) -> None:
    url = f"http://127.0.0.1:{free_port()}/flow-requests"
    assert stage.run(url).startswith("refused Service Bus could not be reached.")
