"""The samples in C# and for Node, run: they start flows through emulator and worker, and read their results.

Mono compiles those in C#. `csharp` has stand-ins for the types of the SDKs of Dataverse and Service Bus, and a host
that calls the plug-in.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.reply_key import checked_reply_key, is_authentic, new_reply_key
from flow_contracts.result import FlowResult
from flow_contracts.servicebus import ConnectionString, ServiceBus
from flow_worker.demo.environment import ON_BEHALF, ROLE, EmulatorClient, running_worker, worker_settings
from flow_worker.demo.processes import free_port
from servicebus_emulator import config
from servicebus_emulator.cloud.entra.issuer import object_id_of
from tests.clients.harness import HERE, NODE, running
from tests.support.processes import CHECKOUT

SAMPLES = CHECKOUT / "docs" / "samples"
QUEUE = "https://contoso.servicebus.windows.net/flow-requests-plugins"
SECONDS = 10
KEY = new_reply_key()
USER = str(object_id_of("ada"))
PLUGIN = config.load(None).http.identity.managed_identity.object_id


@dataclass(frozen=True)
class Stage:
    """The parts of the emulator that the plug-in needs."""

    emulator: EmulatorClient
    namespace: str
    bus_token: str
    folder: Path

    def run(
        self,
        url: str | None = None,
        bus_token: str | None = None,
        result_id: str | None = None,
        reply_key: str = KEY.get_secret_value(),
    ) -> str:
        """Compile the plug-in for this queue URL, run it, and return the output of the host."""
        program = compiled(self.folder, url or f"{self.namespace}/flow-requests")
        tokens = {
            "BUS_TOKEN": bus_token or self.bus_token,
            "WORKER_TOKEN": token(self.emulator, self.emulator.audience),
        }
        command = ["mono", str(program), USER, str(uuid.uuid4()), result_id or str(uuid.uuid4()), reply_key]
        process = subprocess.run(
            command, env=os.environ | tokens, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert process.returncode == 0, process.stderr
        assert not [name for name, token in tokens.items() if token in process.stdout], "a token is in the error"
        return process.stdout


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An emulator with its REST side, and a worker that is ready."""
    folder = tmp_path_factory.mktemp("samples")
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
    answer = httpx.get(emulator.identity_endpoint, params=query, headers=secret, timeout=60).raise_for_status()
    given: str = answer.json()["access_token"]
    return given


def compiled(folder: Path, url: str) -> Path:
    """Compile the host with the plug-in, in which only the URL of the queue is replaced."""
    project, sources = project_of("plug-in/StartQuote.csproj")
    source = sources[0].read_text(encoding="utf-8")
    assert source.count(QUEUE) == 1
    (folder / "StartQuote.cs").write_text(source.replace(QUEUE, url), encoding="utf-8")
    stand_ins = [HERE / "csharp" / name for name in ("Dataverse.cs", "PlugInHost.cs")]
    references = [f"{reference.get('Include')}.dll" for reference in project.iter("Reference")]
    return compile_program(folder / "host.exe", [folder / "StartQuote.cs", *sources[1:], *stand_ins], references)


def project_of(path: str) -> tuple[ElementTree.Element, list[Path]]:
    """Return a project file, and the source files that it names."""
    file = SAMPLES / path
    project = ElementTree.parse(file).getroot()  # noqa: S314 - our own file
    included = (item.get("Include", "").replace("\\", "/") for item in project.iter("Compile"))
    return project, [(file.parent / name).resolve(strict=True) for name in included]


def compile_program(program: Path, sources: list[Path], references: list[str]) -> Path:
    """Compile with warnings as errors, in the language version that the projects name. Skip the test without Mono."""
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("no Mono; .ci/run names the Debian packages")
    options = ["-langversion:7", "-warnaserror", f"-out:{program}", *(f"-r:{name}" for name in references)]
    process = subprocess.run(
        ["mcs", *options, *map(str, sources)], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return program


def test_the_plugin_starts_its_flow(stage: Stage) -> None:
    correlation_id = str(uuid.uuid4())
    output = stage.run(result_id=correlation_id)
    assert output.startswith(f"MessageId {USER}/"), output
    deadline = time.monotonic() + SECONDS
    while (
        not (activity := stage.emulator.activity("create-quote", correlation_id)).calls and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert activity.calls == 1, (stage.folder / "worker.log").read_text(encoding="utf-8")
    result = asyncio.run(result_of(stage.emulator, correlation_id))
    assert is_authentic(result, KEY), "the worker got the reply key"
    FlowResult.from_message(result)
    assert checked(stage, result, KEY) == "True"
    for forged in (
        replace(result, body=result.body + b" "),
        replace(result, message_id="result-0"),
        replace(result, application_properties={**result.application_properties, "contract": "flow-result/2"}),
    ):
        assert checked(stage, forged, KEY) == "False"
    assert checked(stage, result, new_reply_key()) == "False"


async def result_of(emulator: EmulatorClient, correlation_id: str) -> ReceivedMessage:
    """Return the message of the result."""
    async with (
        ServiceBus(ConnectionString(emulator.connection_string)) as bus,
        bus.session_receiver("flow-replies", correlation_id) as session,
    ):
        delivery = await session.receive(SECONDS)
        assert delivery is not None
        return delivery.message


def checked(stage: Stage, message: ReceivedMessage, key: SecretStr) -> str:
    """Return what the sample in C# says about the MAC of a result."""
    properties = message.application_properties
    body = base64.b64encode(message.body).decode()
    arguments = [key.get_secret_value(), body, str(message.message_id)]
    arguments += [str(properties[name]) for name in ("contract", "reply_mac")]
    command = ["mono", str(stage.folder / "host.exe"), "check", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    answer, key_made = process.stdout.split()
    checked_reply_key(key_made)
    return answer


@pytest.mark.parametrize("key", ["short", "k" * 30 + "\r\nx: y", "k" * 30 + '"'])
def test_the_plugin_refuses_a_malformed_reply_key(stage: Stage, key: str) -> None:
    assert stage.run(reply_key=key).startswith("refused ReplyKey has not the form of a key.")


def test_the_plugin_reports_a_missing_queue(stage: Stage) -> None:
    assert stage.run(f"{stage.namespace}/nowhere").startswith("refused Service Bus answered 404.")


def test_the_plugin_reports_a_refused_token(stage: Stage) -> None:
    assert stage.run(bus_token=f"{stage.bus_token[:-4]}AAAA").startswith("refused Service Bus answered 401.")


def test_the_plugin_reports_an_unreachable_service_bus(stage: Stage) -> None:
    url = f"http://127.0.0.1:{free_port()}/flow-requests"
    assert stage.run(url).startswith("refused Service Bus could not be reached.")


@pytest.fixture(scope="module")
def reader(stage: Stage) -> Path:
    """The program that reads results, compiled from its project."""
    _, sources = project_of("dotnet-reader/ReadResult.csproj")
    references = ["System.Runtime.Serialization.dll"]
    return compile_program(stage.folder / "reader.exe", [*sources, HERE / "csharp" / "ServiceBus.cs"], references)


def read(stage: Stage, reader: Path, *arguments: str, key: str) -> subprocess.CompletedProcess[str]:
    """Run the program that reads results."""
    environment = {
        "SERVICEBUS_CONNECTION_STRING": stage.emulator.connection_string,
        "REPLY_KEY": key,
        "SESSION_PROGRAM": sys.executable,
        "SESSION_ARGUMENTS": str(HERE / "csharp" / "session.py"),
    }
    return subprocess.run(
        ["mono", str(reader), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_reader_prints_the_result_of_the_plugin_and_leaves_forged_ones(stage: Stage, reader: Path) -> None:
    correlation_id, other_key = str(uuid.uuid4()), new_reply_key().get_secret_value()
    started = stage.run(result_id=correlation_id)
    message_id = started.removeprefix("MessageId ").strip()
    asyncio.run(post_forged(stage.emulator, correlation_id, message_id))

    other = read(stage, reader, message_id, correlation_id, "3", key=other_key)
    assert (other.returncode, other.stdout) == (1, ""), other.stderr
    assert "Messages ignored: 2. Their MACs do not fit REPLY_KEY." in other.stderr
    another = read(stage, reader, "another", correlation_id, "3", key=KEY.get_secret_value())
    assert (another.returncode, another.stdout) == (1, ""), another.stderr
    found = read(stage, reader, message_id, correlation_id, key=KEY.get_secret_value())
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert (result["status"], result["request_message_id"]) == ("succeeded", message_id)


async def post_forged(emulator: EmulatorClient, correlation_id: str, message_id: str) -> None:
    """Post a message that looks like the result, without a valid MAC."""
    body = json.dumps({"status": "succeeded", "request_message_id": message_id, "output": "forged"}).encode()
    forged = Message(
        body=body,
        message_id="forged",
        correlation_id=correlation_id,
        session_id=correlation_id,
        application_properties={"contract": "flow-result/1", "reply_mac": "0" * 64},
    )
    async with ServiceBus(ConnectionString(emulator.connection_string)) as bus:
        await bus.send("flow-replies", forged)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [((), "k" * 43), (("m", "c"), "short"), (("m", "c", "0"), "k" * 43), (("m", "c", "x"), "k" * 43)],
)
def test_the_reader_names_a_wrong_use(stage: Stage, reader: Path, arguments: tuple[str, ...], key: str) -> None:
    process = read(stage, reader, *arguments, key=key)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("Use: ReadResult ")


def run_on_node(stage: Stage, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the project for Node; skip the test if Node or the packages are missing."""
    folder = SAMPLES / "node"
    if NODE is None:
        pytest.skip("Node is not installed")
    if not (folder / "node_modules").is_dir():
        pytest.skip("no npm packages; `npm install --prefix docs/samples/node` gets them")
    given = {"SERVICEBUS_CONNECTION_STRING": stage.emulator.connection_string} | environment
    return subprocess.run(
        [NODE, *command], cwd=folder, env=os.environ | given, capture_output=True, text=True, timeout=60, check=False
    )


def test_node_starts_a_flow_and_prints_its_output(stage: Stage) -> None:
    process = run_on_node(stage, "quote.mjs", "Contoso", "12.5", FLOW_WORKER_CLAIM=stage.emulator.mint("ada", ROLE))
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["amount"] == 12.5


def test_node_reads_the_result_of_the_plugin_once(stage: Stage) -> None:
    correlation_id = str(uuid.uuid4())
    message_id = stage.run(result_id=correlation_id).removeprefix("MessageId ").strip()
    read_result = ("read-result.mjs", message_id, correlation_id)
    other = run_on_node(stage, *read_result, "3", REPLY_KEY=new_reply_key().get_secret_value())
    assert (other.returncode, other.stdout) == (1, ""), other.stderr
    assert "Messages ignored: 1. Their MACs do not fit REPLY_KEY." in other.stderr
    found = run_on_node(stage, *read_result, REPLY_KEY=KEY.get_secret_value())
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["request_message_id"] == message_id
    again = run_on_node(stage, *read_result, "2", REPLY_KEY=KEY.get_secret_value())
    assert (again.returncode, again.stdout) == (1, ""), again.stderr


@pytest.mark.parametrize(
    ("command", "environment", "status", "text"),
    [
        (("read-result.mjs", "m"), {"REPLY_KEY": "k" * 43}, 2, "Use: "),
        (("read-result.mjs", "m", "c"), {"REPLY_KEY": ""}, 2, "Use: "),
        (("read-result.mjs", "m", "c", "0"), {"REPLY_KEY": "k" * 43}, 2, "Use: "),
        (("quote.mjs",), {"SERVICEBUS_CONNECTION_STRING": ""}, 1, "Set SERVICEBUS_NAMESPACE or"),
        (("quote.mjs",), {"FLOW_WORKER_CLAIM": ""}, 1, "Set WORKER_SCOPE"),
    ],
)
def test_the_programs_for_node_name_a_wrong_use(
    stage: Stage, command: tuple[str, ...], environment: dict[str, str], status: int, text: str
) -> None:
    process = run_on_node(stage, *command, **environment)
    assert (process.returncode, process.stdout) == (status, "")
    assert text in process.stderr


def test_the_front_end_builds_to_the_size_that_its_page_states() -> None:
    folder = SAMPLES / "front-end"
    if NODE is None or not (folder / "node_modules").is_dir():
        pytest.skip("no npm packages; `npm install --prefix docs/samples/front-end` gets them")
    process = subprocess.run([NODE, "build.mjs"], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0, process.stderr
    size = (folder / "dist" / "front-end.mjs").stat().st_size
    stated = re.search(r"about (\d+) KB", (SAMPLES / "README.md").read_text(encoding="utf-8"))
    assert stated is not None
    assert size / 1024 == pytest.approx(int(stated[1]), rel=0.1)
