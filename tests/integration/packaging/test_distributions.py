"""The three distributions build, install into an empty environment, and work from outside the repository."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import httpx
import pytest

from servicebus_emulator.testing import QueueSettings, running_service_bus_in_thread
from tests.integration.packaging.conftest import FOLDERS, ROOT, Built, Installed, install

pytestmark = pytest.mark.timeout(400)

DISTRIBUTIONS = {"contracts": "flow_contracts", "worker": "flow_worker", "emulator": "servicebus_emulator"}
SENDER_MEGABYTES = 45

SEND = """
import asyncio, os, sys
from flow_contracts.client import FlowClient

async def main():
    async with FlowClient.from_connection_string(os.environ["SERVICE_BUS"]) as client:
        print(await client.submit("create-quote", {"amount": 1}, claim="a.b.c", correlation_id="smoke-1"))

asyncio.run(main())
assert not {"flow_worker", "servicebus_emulator", "azure.identity", "httpx"} & set(sys.modules)
"""

FIXTURE_TEST = """
import pytest
from servicebus_emulator.testing import QueueSettings

@pytest.fixture
def service_bus_queues():
    return ["orders", QueueSettings("replies", requires_session=True)]

def test_the_installed_fixture_serves_the_named_queues(service_bus):
    assert service_bus.counts("orders")["active"] == 0
"""

SETTINGS = """
[servicebus]
namespace = "contoso.servicebus.windows.net"
[claims]
tenants = ["11111111-2222-3333-4444-555555555555"]
audiences = ["66666666-7777-8888-9999-000000000000"]
[[request_queues]]
name = "flow-requests"
[flows.create-quote]
url = "https://0a1b2c.3d.environment.api.powerplatform.com/powerautomate/automations/direct/workflows/0/triggers/manual"
role = "Quotes.Create"
"""


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_wheel_holds_one_typed_package_its_licence_and_nothing_generic(folder: str, built: Built) -> None:
    package = DISTRIBUTIONS[folder]
    with zipfile.ZipFile(built.wheel(package)) as wheel:
        names = wheel.namelist()
        metadata = Parser().parsestr(wheel.read(f"{package}-0.1.0.dist-info/METADATA").decode())
    assert {name.split("/")[0] for name in names} == {package, f"{package}-0.1.0.dist-info"}
    assert f"{package}/py.typed" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"] == "flow-worker contributors"
    assert metadata["Project-URL"] is None


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_sdist_holds_every_module_of_its_package(folder: str, built: Built) -> None:
    package = DISTRIBUTIONS[folder]
    with tarfile.open(built.sdist(package)) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    source = ROOT / folder
    modules = {path.relative_to(source).as_posix() for path in (source / package).rglob("*.py")}
    assert modules <= inside
    assert {"LICENSE", "README.md", "pyproject.toml"} <= inside


def test_the_sdist_of_the_contracts_holds_the_schemas(built: Built) -> None:
    with tarfile.open(built.sdist("flow_contracts")) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/schema/" in name]
    assert {"schema/asyncapi.json", "schema/flow-request.schema.json", "schema/flow-result.schema.json"} <= set(names)


def test_all_licence_files_and_versions_are_the_same() -> None:
    licences = {(folder / "LICENSE").read_text(encoding="utf-8") for folder in (ROOT, *(ROOT / one for one in FOLDERS))}
    projects = [tomllib.loads((ROOT / one / "pyproject.toml").read_text(encoding="utf-8")) for one in FOLDERS]
    assert len(licences) == 1
    assert len({project["project"]["version"] for project in projects}) == 1


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory, built: Built, constraints: Path) -> Installed:
    return install(tmp_path_factory.mktemp("sender"), built, constraints, "flow-contracts")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, built: Built, constraints: Path) -> Installed:
    return install(tmp_path_factory.mktemp("emulator"), built, constraints, "servicebus-emulator", "pytest")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, built: Built, constraints: Path) -> Installed:
    return install(tmp_path_factory.mktemp("worker"), built, constraints, "flow-worker[demo]")


def test_a_sender_installs_less_than_45_mb(sender: Installed) -> None:
    sizes = (path.stat().st_size for path in sender.site_packages.rglob("*") if path.is_file())
    assert sum(sizes) < SENDER_MEGABYTES * 1_000_000


def test_a_sender_posts_a_request_from_the_installed_package(sender: Installed) -> None:
    with running_service_bus_in_thread("flow-requests", QueueSettings("flow-replies", requires_session=True)) as bus:
        assert sender.python(SEND, {"SERVICE_BUS": bus.connection_string}) == "smoke-1\n"
        assert bus.counts("flow-requests")["active"] == 1


def test_the_installed_schema_command_writes_the_schemas(sender: Installed, tmp_path: Path) -> None:
    sender.run("python", "-m", "flow_contracts.schema", str(tmp_path))
    assert (tmp_path / "asyncapi.json").read_bytes() == (ROOT / "contracts/schema/asyncapi.json").read_bytes()


def test_the_installed_emulator_serves_and_mints_tokens(emulator: Installed) -> None:
    command = [str(emulator.scripts / "servicebus-emulator"), "serve", "--amqp-port", "0", "--http-port", "0"]
    with subprocess.Popen(
        command, cwd=emulator.working_folder, env=emulator.variables(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline().removeprefix("ready "))
            url = str(ready["flows_url"]).partition("/powerautomate")[0]
            claim = emulator.run("servicebus-emulator", "token", "--user", "ada", "--url", url)
            page = [httpx.get(f"{url}/page/{name}", timeout=60).status_code for name in ("", "page.js", "page.css")]
        finally:
            process.kill()
    assert claim.count(".") == 2
    assert page == [200, 200, 200]


def test_another_project_gets_the_pytest_fixture_by_installing_the_emulator(emulator: Installed) -> None:
    (emulator.working_folder / "test_orders.py").write_text(FIXTURE_TEST, encoding="utf-8")
    assert "1 passed" in emulator.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_orders.py")


def test_both_ways_to_start_the_emulator_print_the_same_help(emulator: Installed) -> None:
    assert emulator.run("servicebus-emulator", "--help") == emulator.run(
        "python", "-m", "servicebus_emulator", "--help"
    )


def test_both_ways_to_start_the_worker_check_the_settings(worker: Installed) -> None:
    (worker.working_folder / "flow-worker.toml").write_text(SETTINGS, encoding="utf-8")
    settings = json.loads(worker.run("flow-worker", "check", "--config", "flow-worker.toml"))
    assert settings["servicebus"]["namespace"] == "contoso.servicebus.windows.net"
    assert settings == json.loads(worker.run("python", "-m", "flow_worker", "check", "--config", "flow-worker.toml"))


def test_the_installed_demo_runs_end_to_end(worker: Installed) -> None:
    report = json.loads(worker.run("flow-worker", "demo", "--json", "--burst", "20"))
    assert report["ok"] is True
