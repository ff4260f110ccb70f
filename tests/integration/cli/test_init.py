"""`flow-worker init`, and the commands that it prints: they work as printed, on other ports."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jsonschema
import pytest

from flow_worker import settings
from flow_worker.cli.init_files import COMMANDS
from flow_worker.demo.processes import first_line
from servicebus_emulator import worker_settings
from servicebus_emulator.worker_settings import Form, WorkerFile
from tests.support.processes import CHECKOUT

FILES = {"flow-worker.toml", "flow-worker.schema.json", ".env.example", "emulator.json", ".gitignore"}


def environment(**more: str) -> dict[str, str]:
    foreign = ("FLOW_WORKER_", "IDENTITY_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return clean | {"PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "utf-8"} | more


def command(line: str, *more: str) -> list[str]:
    """Return the words of a printed command, so that this environment's interpreter runs it."""
    program, *arguments = shlex.split(line)
    return [sys.executable, "-m", program.replace("-", "_"), *arguments, *more]


def run(line: str, *more: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(line, *more),
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=90,
        check=False,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "quotes"
    done = run("flow-worker init", str(folder), cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    printed = [line.strip() for line in done.stdout.splitlines()]
    assert [line for line in printed if not line.startswith("cd ")] == [*COMMANDS]
    return folder


@pytest.fixture(scope="module")
def emulator_url(project: Path) -> Iterator[str]:
    """Run the first command on free ports; return the emulator's HTTP address."""
    arguments = [argument for argument in command(COMMANDS[0]) if argument not in {"--admin-port", "5300"}]
    with subprocess.Popen(
        [*arguments, "--amqp-port", "0", "--http-port", "0", "--admin-port", "0"],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = first_line(process.stdout, 60)
            assert line is not None
            yield str(json.loads(line.removeprefix("ready "))["flows_url"]).partition("/powerautomate")[0]
        finally:
            process.kill()


def test_init_writes_each_file_and_never_overwrites_one(project: Path) -> None:
    assert {path.name for path in project.iterdir()} >= FILES
    mine = project / ".env.example"
    mine.write_text("mine", encoding="utf-8")
    done = run("flow-worker init", cwd=project)
    assert done.returncode == 0
    assert mine.read_text(encoding="utf-8") == "mine"
    assert "unchanged" in done.stderr
    assert "cd " not in done.stdout


def test_the_written_settings_are_valid_and_point_to_their_schema(project: Path) -> None:
    assert run("flow-worker check", cwd=project).returncode == 0
    toml = (project / "flow-worker.toml").read_text(encoding="utf-8")
    assert toml.startswith("#:schema ./flow-worker.schema.json\n")
    schema = json.loads((project / "flow-worker.schema.json").read_text(encoding="utf-8"))
    assert json.loads(run("flow-worker schema settings", cwd=project).stdout) == schema
    checker = jsonschema.Draft7Validator(schema)
    assert checker.is_valid({"log": {"level": "INFO"}, "flows": {"a": {"role": "r"}}})
    misspelt: list[object] = [{"lgo": {}}, {"log": {"levle": "INFO"}}, {"flows": {"a": {"rol": "r"}}}]
    for wrong in [*misspelt, {"health": {"port": 70_000}}]:
        assert not checker.is_valid(wrong), wrong


def test_the_second_command_fits_the_settings_to_the_running_emulator(project: Path, emulator_url: str) -> None:
    done = run(COMMANDS[1], "--url", emulator_url, cwd=project)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    checked = run("flow-worker check --env-file emulator.env", cwd=project)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["claims"]["authority"] == emulator_url


def test_the_third_command_finds_nothing_wrong(project: Path, emulator_url: str) -> None:
    assert run(COMMANDS[1], "--url", emulator_url, cwd=project).returncode == 0
    done = run(COMMANDS[2], "--json", cwd=project, FLOW_WORKER_HEALTH__PORT="0")  # another program may use the port
    report = json.loads(done.stdout)
    assert [check for check in report["checks"] if check["outcome"] == "failed"] == []
    assert [check["subject"] for check in report["checks"] if check["outcome"] == "unseen"] == ["port"]
    assert done.returncode == 0


READY: Mapping[str, object] = {
    "connection_string": "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=n;SharedAccessKey=k",
    "issuer": "http://127.0.0.1:5380/6b1f3a52-0c6e-4f0d-9c7e-5d1e8a2b9f10/v2.0",
    "audience": "api://flow-worker",
    "flows_url": "http://127.0.0.1:5380/powerautomate",
    "dataverse_url": "http://127.0.0.1:5380/dataverse",
    "dataverse_organization": "b0c5c4a4-2b6f-4a0e-9f3e-0d6f5c7b8a91",
    "identity_endpoint": "http://127.0.0.1:5380/msi/token",
    "identity_header": "it's",
    "admin_url": None,
    "flows": ["create-quote"],
    "queues": ["flow-requests", "flow-continuations", "flow-replies", "posts"],
}
OWN = """
[servicebus]
namespace = "contoso.servicebus.windows.net"
[identity]
client_id = "11111111-2222-3333-4444-555555555555"
[claims]
tenants = ["11111111-2222-3333-4444-555555555555"]
audiences = ["api://mine"]
[[request_queues]]
name = "flow-requests"
dataverse_url = "https://contoso.crm4.dynamics.com"
[[request_queues]]
name = "posts"
authority = "dataverse"
organization = "11111111-2222-3333-4444-555555555555"
flows = { "new_StartQuote" = "notify" }
[replies]
queues = ["flow-replies", "more-replies"]
[flows.notify]
url = "https://x.environment.api.powerplatform.com/powerautomate/a"
role = "R"
"""


def test_a_toml_file_for_azure_runs_on_the_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.setenv(name, "restores the variable after the test")
    monkeypatch.chdir(tmp_path)
    toml = tmp_path / "flow-worker.toml"
    toml.write_text(OWN, encoding="utf-8")
    file = WorkerFile.read(toml)
    values = worker_settings.variables(READY, file)
    (tmp_path / ".env").write_text(worker_settings.render(values, Form.ENV), encoding="utf-8")
    loaded = settings.load()
    assert loaded.servicebus.namespace is None
    assert loaded.identity.client_id is None
    assert loaded.claims.audiences == ("api://flow-worker",)
    assert loaded.flows["notify"].role == "R"
    assert loaded.flows["notify"].url.get_secret_value().startswith("http://127.0.0.1:5380/powerautomate/notify/")
    assert {loaded.dataverse_url(queue) for queue in loaded.request_queues} == {"http://127.0.0.1:5380/dataverse"}
    assert loaded.request_queues[1].organization == READY["dataverse_organization"]
    assert [sentence.split("; ")[0] for sentence in worker_settings.missing(READY, file)] == [
        "The emulator has no queue 'more-replies'",
        "The emulator has no flow 'notify'",
    ]
    assert "$env:IDENTITY_HEADER = 'it''s'" in worker_settings.render(values, Form.POWERSHELL)


def test_without_a_toml_file_the_variables_alone_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.setenv(name, "restores the variable after the test")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        worker_settings.render(worker_settings.variables(READY, None), Form.ENV), encoding="utf-8"
    )
    assert list(settings.load().flows) == ["create-quote"]
