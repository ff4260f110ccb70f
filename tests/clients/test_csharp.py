"""The plug-in docs/samples/StartQuote.cs, compiled with Mono and run: it starts a flow through emulator and worker.

Only Dataverse is missing: `csharp` has stand-ins for the SDK's types, and a host that calls the plug-in.
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
from servicebus_emulator import config
from servicebus_emulator.cloud.entra.issuer import object_id_of
from tests.clients.harness import HERE, running
from tests.support.azurite import free_port
from tests.support.processes import CHECKOUT

SAMPLE = CHECKOUT / "docs" / "samples" / "StartQuote.cs"
QUEUE = "https://contoso.servicebus.windows.net/flow-requests-plugins"
REFERENCES = ("System.Net.Http.dll", "System.Runtime.Serialization.dll")
SECONDS = 10
USER = str(object_id_of("ada"))
PLUGIN = config.load(None).http.identity.managed_identity.object_id


@dataclass(frozen=True)
class Stage:
    """What the plug-in needs of the emulator."""

    emulator: EmulatorClient
    namespace: str
    bus_token: str
    folder: Path

    def run(self, url: str | None = None, bus_token: str | None = None) -> str:
        """What the host says after the plug-in, compiled for this queue's URL, has run."""
        program = compiled(self.folder, url or f"{self.namespace}/flow-requests")
        tokens = {
            "BUS_TOKEN": bus_token or self.bus_token,
            "WORKER_TOKEN": token(self.emulator, self.emulator.audience),
        }
        command = ["mono", str(program), USER, str(uuid.uuid4())]
        done = subprocess.run(
            command, env=os.environ | tokens, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        assert not [name for name, token in tokens.items() if token in done.stdout], "a token is in the error"
        return done.stdout


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An emulator with its REST side, and a worker that is ready."""
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("no Mono; .ci/run names the Debian packages")
    folder = tmp_path_factory.mktemp("csharp")
    with running(folder, None, "--admin-port", "0") as said:
        emulator = EmulatorClient(**{name: said[name] for name in EmulatorClient.__dataclass_fields__})
        with running_worker(folder, emulator, settings):
            yield Stage(emulator, said["admin_url"], token(emulator, "https://servicebus.azure.net"), folder)


def settings(emulator: EmulatorClient, health_port: int) -> str:
    """The demo's, but the plug-in's identity may name a user, and its flow asks for the user's privilege alone."""
    document = worker_settings(emulator, health_port).split("[flows.create-quote-unchecked]")
    own = document[0].replace(f'asserter_role = "{ON_BEHALF}"', f'asserters = ["{PLUGIN}"]')
    own = own.replace(f'role = "{ROLE}"', 'privilege = "prvCreatenew_quote"')
    return "[flows.create-quote-unchecked]".join([own, *document[1:]])


def token(emulator: EmulatorClient, resource: str) -> str:
    """The managed identity's, from its endpoint."""
    query = {"api-version": "2019-08-01", "resource": resource}
    secret = {"X-IDENTITY-HEADER": emulator.identity_header}
    answer = httpx.get(emulator.identity_endpoint, params=query, headers=secret, timeout=10).raise_for_status()
    given: str = answer.json()["access_token"]
    return given


def compiled(folder: Path, url: str) -> Path:
    """The host with the sample, of which only the queue's URL is another."""
    source = SAMPLE.read_text(encoding="utf-8")
    assert source.count(QUEUE) == 1
    (folder / "StartQuote.cs").write_text(source.replace(QUEUE, url), encoding="utf-8")
    program = folder / "host.exe"
    sources = [folder / "StartQuote.cs", *sorted((HERE / "csharp").glob("*.cs"))]
    options = ["-langversion:7", "-warnaserror", f"-out:{program}", *(f"-r:{name}" for name in REFERENCES)]
    done = subprocess.run(
        ["mcs", *options, *map(str, sources)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return program


def test_the_plugin_starts_its_flow(stage: Stage) -> None:
    said = stage.run()
    assert said.startswith(f"MessageId {USER}/"), said
    correlation_id = said.split()[1]
    deadline = time.monotonic() + SECONDS
    while not (seen := stage.emulator.activity("create-quote", correlation_id)).calls and time.monotonic() < deadline:
        time.sleep(0.1)
    assert seen.calls == 1, (stage.folder / "worker.log").read_text(encoding="utf-8")


def test_a_queue_that_does_not_exist_is_told(stage: Stage) -> None:
    assert stage.run(f"{stage.namespace}/nowhere").startswith("refused Service Bus answered 404.")


def test_a_token_that_is_refused_is_told(stage: Stage) -> None:
    assert stage.run(bus_token=f"{stage.bus_token[:-4]}AAAA").startswith("refused Service Bus answered 401.")


def test_a_service_bus_that_cannot_be_reached_is_told(stage: Stage) -> None:
    url = f"http://127.0.0.1:{free_port()}/flow-requests"
    assert stage.run(url).startswith("refused Service Bus could not be reached.")
