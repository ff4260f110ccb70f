"""The emulator's command line before any command runs: `--help`, `--version`, and what they import."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from servicebus_emulator.cli import Access, SettingsForm, cli
from servicebus_emulator.servicebus.access import AccessMode
from servicebus_emulator.worker_settings import Form

COMMANDS: tuple[list[str], ...] = ([], ["serve"], ["token"], ["settings"])
_PROGRAM = """
import contextlib, io, json, sys
from servicebus_emulator.cli import cli
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli([*command, "--help"], prog_name="servicebus-emulator")
print(json.dumps(sorted(sys.modules)))
"""


def test_the_help_of_every_command_imports_no_part_of_the_emulator() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(COMMANDS)], capture_output=True, text=True, check=True, timeout=60
    )
    modules = json.loads(done.stdout)
    parts = {one for one in modules if one.startswith("servicebus_emulator.")}
    assert parts <= {"servicebus_emulator.cli", "servicebus_emulator.streams"}
    assert {"aiohttp", "asyncio", "cryptography", "httpx"} & set(modules) == set()


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_both_options_for_help(option: str) -> None:
    for command in COMMANDS:
        result = CliRunner().invoke(cli, [*command, option])
        assert (result.exit_code, "Usage:" in result.output) == (0, True), command


def test_the_version_is_the_installed_one() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"servicebus-emulator {version('servicebus-emulator')}\n")


def test_the_options_take_what_the_emulator_knows() -> None:
    assert [*Access] == [*AccessMode]
    assert [*SettingsForm] == [*Form]
