"""The content of the image, and its worker: it processes requests from an emulator, starts and stops.

All tests of the image are in this file, so that one process of pytest-xdist builds the image, once.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from flow_contracts.client import FlowClient
from flow_worker.demo.processes import free_port
from tests.containers.harness import (
    CHECKOUT,
    ROLE,
    START_SECONDS,
    Emulator,
    container,
    running_worker,
    settings_for,
    stop,
)

pytestmark = pytest.mark.timeout(600)  # the first test builds the image

WAIT_SECONDS = 60
PROBE = """
import importlib.metadata, importlib.util, json, os, pathlib, shutil, sys, flow_contracts
files = [pathlib.Path(folder, name) for folder, _, names in os.walk(sys.prefix) for name in names]
print(json.dumps({
    "user": os.getuid(),
    "writable": [str(file) for file in files if os.access(file, os.W_OK)],
    "modules": [name for name in MODULES if importlib.util.find_spec(name)],
    "programs": [name for name in PROGRAMS if shutil.which(name)],
    "installed": {each.name.lower().replace("_", "-"): each.version for each in importlib.metadata.distributions()},
    "data": (pathlib.Path(flow_contracts.__file__).parent / "py.typed").is_file(),
}))
"""
MODULES = [
    "flow_worker",
    "flow_contracts",
    "servicebus_emulator",
    "worker",
    "contracts",
    "emulator",
    "tests",
    "pytest",
    "pip",
    "setuptools",
]
PROGRAMS = ["flow-worker", "gcc", "g++", "cc", "c++", "clang", "tcc", "make"]


@pytest.fixture(scope="module")
def probed(engine: DockerClient, image: str) -> dict[str, object]:
    """Return the findings of a script that runs in the image."""
    script = f"MODULES = {MODULES}\nPROGRAMS = {PROGRAMS}\n{PROBE}"
    output = engine.run(image, ["-c", script], entrypoint="python", network="none", remove=True)
    findings: dict[str, object] = json.loads(output)
    return findings


def test_the_image_contains_the_worker_without_emulator_tests_or_installer(probed: dict[str, object]) -> None:
    assert probed["modules"] == ["flow_worker", "flow_contracts"]
    assert probed["data"]


def test_the_image_contains_no_compiler(probed: dict[str, object]) -> None:
    assert probed["programs"] == ["flow-worker"]


def test_the_image_runs_as_a_user_who_cannot_change_its_files(probed: dict[str, object]) -> None:
    assert probed["user"] == 10001
    assert probed["writable"] == []


def test_the_image_contains_the_pinned_versions_and_nothing_else(probed: dict[str, object]) -> None:
    lock = (CHECKOUT / "requirements-worker.lock").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", lock, re.MULTILINE))
    installed = probed["installed"]
    assert isinstance(installed, dict)
    assert installed.pop("flow-worker") == installed.pop("flow-contracts")
    assert installed
    assert installed.items() <= pinned.items()


def test_the_user_is_a_number_so_that_kubernetes_can_prove_it_is_not_root(engine: DockerClient, image: str) -> None:
    user = engine.client.images.get(image).attrs["Config"]["User"]
    assert all(part.isdecimal() and int(part) > 0 for part in user.split(":"))


def test_a_start_without_settings_names_the_required_ones(engine: DockerClient, image: str) -> None:
    started = engine.client.containers.run(image, detach=True, network="none")
    try:
        status = started.wait(timeout=60)["StatusCode"]
        log = started.logs().decode()
    finally:
        started.remove(force=True)
    assert status == 2
    for name in ("FLOW_WORKER_SERVICEBUS", "FLOW_WORKER_CLAIMS", "FLOW_WORKER_FLOWS"):
        assert name in log


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker(image: str, emulator: Emulator) -> Iterator[DockerContainer]:
    with running_worker(image, emulator) as running:
        yield running


@pytest.mark.usefixtures("worker")
async def test_a_request_gets_the_flows_output(emulator: Emulator) -> None:
    async with FlowClient.from_connection_string(emulator.connection_string) as client:
        claim = emulator.mint("ada", ROLE)
        sent = await client.submit("create-quote", {"customer": "Contoso", "amount": 1250}, claim=claim)
        result = await client.wait(sent, timeout=WAIT_SECONDS)
    assert result.status == "succeeded"
    assert isinstance(result.output, dict)
    assert result.output["customer"] == "Contoso"


@pytest.mark.usefixtures("worker")
async def test_a_sender_without_the_role_is_refused(emulator: Emulator) -> None:
    async with FlowClient.from_connection_string(emulator.connection_string) as client:
        sent = await client.submit("create-quote", {}, claim=emulator.mint("bob"))
        result = await client.wait(sent, timeout=WAIT_SECONDS)
    assert result.status == "refused"


def test_the_log_begins_with_what_the_worker_does_without_secrets(worker: DockerContainer) -> None:
    log = "".join(part.decode() for part in worker.get_logs())
    assert all(name in log for name in ("flow-requests", "flow-replies", "create-quote"))
    assert "SAS_KEY_VALUE" not in log


# --- start and stop --------------------------------------------------------------------------------------------------


async def test_docker_stop_lets_the_worker_finish_the_running_call_and_exit_with_0(
    image: str, emulator: Emulator
) -> None:
    with running_worker(image, emulator) as worker:
        async with FlowClient.from_connection_string(emulator.connection_string) as client:
            sent = await client.submit("slow-report", {}, claim=emulator.mint("ada", ROLE))
            until(lambda: emulator.calls("slow-report") > 0)
            assert stop(worker) == 0
            result = await client.poll(sent)
    assert result is not None
    assert result.status == "succeeded"


def test_without_service_bus_the_worker_is_live_but_not_ready_and_exits_with_0(image: str, emulator: Emulator) -> None:
    closed_port = f"sb://127.0.0.1:{free_port()}"
    bus = f"Endpoint={closed_port};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true"
    isolated = container(image, settings_for(emulator) | {"FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": bus})
    # On a separate network the probes come from outside the container, as those of an orchestrator do.
    isolated.ports["8080/tcp"] = ("127.0.0.1", None)  # type: ignore[assignment]  # docker-py accepts pairs, its type hint does not
    with isolated as worker:
        url = f"http://127.0.0.1:{worker.get_exposed_port(8080)}/health"
        until(lambda: http_status(f"{url}/live") == 200)
        assert http_status(f"{url}/ready") == 503
        assert worker.exec(["flow-worker", "health"]).exit_code == 1
        assert stop(worker) == 0


def http_status(url: str) -> int | None:
    """Return the HTTP status, or None while the port does not answer."""
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return None


def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds: it depends on another process, which sends no event."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"the condition does not hold after {START_SECONDS} s"
        time.sleep(0.05)
