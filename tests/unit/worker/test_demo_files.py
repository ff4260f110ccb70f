"""The files of `flow-worker demo --keep`: for this user alone, and never those of another demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from dotenv import dotenv_values

from flow_worker.demo import run
from flow_worker.demo.environment import DemoEnvironment
from flow_worker.demo.folder import KEPT_FOLDER, demo_folder
from flow_worker.demo.processes import DemoError
from flow_worker.demo.run import commands_to_try, telemetry_lines
from flow_worker.demo.sender_settings import POWERSHELL, SHELL, write_sender_settings

posix = pytest.mark.skipif(os.name == "nt", reason="Windows knows no file modes")


class Emulator:
    connection_string = "Endpoint=sb://127.0.0.1:1;"
    identity_endpoint = "http://127.0.0.1:2/identity"
    identity_header = "a-header"

    def mint(self, *_: str) -> str:
        return "a-claim"


class Environment:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.emulator = Emulator()
        self.gateway_url = "http://127.0.0.1:3"
        self.metrics_url = "http://127.0.0.1:65535/metrics"
        self.gateway_metrics_url = "http://127.0.0.1:65534/metrics"


def write_to(folder: Path) -> None:
    write_sender_settings(cast("DemoEnvironment", Environment(folder)))


@posix
@pytest.mark.parametrize("name", [SHELL, POWERSHELL])
def test_existing_sender_settings_are_replaced_by_private_ones(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched", encoding="utf-8")
    path = tmp_path / name
    for leftover in ("file", "link"):
        path.unlink(missing_ok=True)
        if leftover == "file":
            path.write_text("old", encoding="utf-8")
            path.chmod(0o644)
        else:
            path.symlink_to(elsewhere)
        with path.open(encoding="utf-8") as reader:
            write_to(tmp_path)
            assert reader.read() in {"old", "untouched"}, "an earlier reader does not see the new claim"
        assert path.stat().st_mode & 0o777 == 0o600
        assert "'a-claim'" in path.read_text(encoding="utf-8")
    assert elsewhere.read_text(encoding="utf-8") == "untouched"


@pytest.mark.parametrize("name", ["plain", "with a space", "with 'apostrophe'", "with-ümlaut"])
def test_the_sender_settings_name_the_emulator_as_the_source_of_tokens(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_to(folder)
    expected = {
        "FLOW_WORKER_CONFIG": (folder / "flow-worker.toml").as_posix(),
        "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": Emulator.connection_string,
        "FLOW_WORKER_JOURNAL__PATH": (folder / "journal.sqlite3").as_posix(),
        "FLOW_WORKER_STATEMENTS__KEY_PATH": (folder / "gateway-key.pem").as_posix(),
        "FLOW_WORKER_GATEWAY__STORE__PATH": (folder / "gateway.sqlite3").as_posix(),
        "FLOW_WORKER_GATEWAY_URL": "http://127.0.0.1:3",
        "FLOW_WORKER_CLAIM": "a-claim",
        "IDENTITY_ENDPOINT": Emulator.identity_endpoint,
        "IDENTITY_HEADER": Emulator.identity_header,
    }
    assert dotenv_values(folder / SHELL) == expected, "as --env-file reads it"
    script = (folder / POWERSHELL).read_text(encoding="utf-8")
    for variable, value in expected.items():
        assert f"$env:{variable} = '{value.replace(chr(39), 2 * chr(39))}'\n" in script
    if shell := shutil.which("sh"):
        program = f"set -a; . ./{SHELL}; '{sys.executable}' -c 'import json, os; print(json.dumps(dict(os.environ)))'"
        done = subprocess.run([shell, "-c", program], cwd=folder, capture_output=True, check=True, encoding="utf-8")
        import json

        assert json.loads(done.stdout).items() >= expected.items(), "as a shell reads it"


@posix
def test_an_existing_folder_of_the_demo_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / KEPT_FOLDER).mkdir()
    (tmp_path / KEPT_FOLDER).chmod(0o755)
    with demo_folder(keep=True) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700


def test_two_kept_demos_have_a_folder_each_and_neither_touches_that_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with demo_folder(keep=True) as first:
        (first / SHELL).write_text("first", encoding="utf-8")
        with demo_folder(keep=True) as second:
            assert second != first
            (second / SHELL).write_text("second", encoding="utf-8")
        assert not (second / SHELL).exists()
        assert (first / SHELL).read_text(encoding="utf-8") == "first"
    with demo_folder(keep=True) as again:
        assert again == first, "the folder of a demo that ended is free"


def test_the_logs_of_a_kept_demo_outlive_it_and_its_secrets_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["worker.log", "emulator.log", SHELL, POWERSHELL, "flow-worker.toml", "journal.sqlite3-seal-key"]

    def interrupted_demo() -> None:
        with demo_folder(keep=True) as folder:
            for name in names:
                (folder / name).write_text("x", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_demo()
    folder = tmp_path / KEPT_FOLDER
    assert sorted(path.name for path in folder.iterdir()) == ["demo.lock", "emulator.log", "worker.log"]


def test_what_a_killed_demo_left_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / KEPT_FOLDER).mkdir()
    (tmp_path / KEPT_FOLDER / "journal.sqlite3").write_text("of another emulator", encoding="utf-8")
    with demo_folder(keep=True) as folder:
        assert not (folder / "journal.sqlite3").exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / KEPT_FOLDER).write_text("a file", encoding="utf-8")
    with pytest.raises(DemoError, match=r"\.demo cannot be used"), demo_folder(keep=True):
        pass


def test_a_demo_without_keep_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with demo_folder(keep=False) as folder:
        (folder / "worker.log").write_text("x", encoding="utf-8")
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_commands_to_try_fit_a_terminal_of_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    message_id = "3cc329c1-3178-4cd6-a366-8a33cc2b6f29"
    lines = commands_to_try(tmp_path / ".demo-2", "flow-worker", message_id)
    assert max(map(len, lines)) <= 80
    assert any(".demo-2/sender.env" in line and r".demo-2\sender.ps1" in line for line in lines)


def test_the_commands_to_try_begin_with_the_virtual_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    scripts = "Scripts" if os.name == "nt" else "bin"
    lines = commands_to_try(tmp_path / ".demo", "flow-worker", "m")
    assert lines[1] == f"  . .venv/{scripts}/activate"
    powershell = Path(".venv", scripts, "Activate.ps1")
    powershell.parent.mkdir(parents=True)
    powershell.touch()
    lines = commands_to_try(tmp_path / ".demo", "flow-worker", "m")
    assert lines[1] == f"  . .venv/{scripts}/activate        (PowerShell: {powershell})"
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert not any("activate" in line for line in commands_to_try(tmp_path / ".demo", "flow-worker", "m"))


def test_the_printed_command_is_that_of_this_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, other = tmp_path / "venv" / "bin", tmp_path / "other"
    monkeypatch.setattr(sys, "executable", str(here / "python"))
    monkeypatch.setattr(sys, "argv", [str(here / "flow-worker"), "demo"])
    for found in (None, str(other / "flow-worker")):
        monkeypatch.setattr(shutil, "which", lambda _, found=found: found)
        assert run._own_command() == str(Path("venv", "bin", "flow-worker"))
    monkeypatch.setattr(shutil, "which", lambda _: str(here / "flow-worker"))
    assert run._own_command() == "flow-worker", "an activated environment"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["-m", "demo"])
    assert run._own_command() == f"{Path('venv', 'bin', 'python')} -m flow_worker"


def test_the_kept_demo_says_where_its_metrics_are_and_keeps_the_endpoint_of_the_collector_to_itself() -> None:
    environment = cast("DemoEnvironment", Environment(Path()))
    lines = telemetry_lines(environment, {})
    assert [line.split()[-2:] for line in lines] == [
        [environment.metrics_url, "(worker)"],
        [environment.gateway_metrics_url, "(gateway)"],
    ]
    with_collector = telemetry_lines(environment, {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://key@collector"})
    assert with_collector[:-1] == lines
    assert not any("key" in line for line in with_collector)
    assert max(map(len, with_collector)) <= 80
