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
with contextlib.redirect_stderr(io.StringIO()) as output, contextlib.suppress(SystemExit):
    cli(["tokn"], prog_name="servicebus-emulator")
assert "Error: No such command 'tokn'. Did you mean 'token'?" in output.getvalue(), output.getvalue()
print(json.dumps(sorted(sys.modules)))
"""


def test_the_help_of_every_command_imports_no_part_of_the_emulator() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(COMMANDS)], capture_output=True, text=True, check=True, timeout=60
    )
    modules = json.loads(done.stdout)
    parts = {one for one in modules if one.startswith("servicebus_emulator.")}
    assert parts <= {f"servicebus_emulator.{name}" for name in ("cli", "help_page", "parsing", "streams")}
    assert {"aiohttp", "asyncio", "cryptography", "httpx", "pydantic", "rich", "typer.rich_utils"} & set(
        modules
    ) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--amqp-port", "x"], "'--amqp-port': must be a whole number, not 'x'."),
        (["serve", "--http-port", "70000"], "'--http-port': must be at most 65535, not '70000'."),
        (["serve", "--access", "x"], "'--access': 'x' is not one of 'checked', 'open'."),
        (["token", "--user", "a", "--expires-in", "1h"], "'--expires-in': must be a whole number, not '1h'."),
        (["settings", "--format", "x"], "'--format': 'x' is not one of 'env', 'powershell'."),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(arguments: list[str], message: str) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli, arguments)
    assert (result.exit_code, f"Invalid value for {message}" in result.output) == (2, True), result.output


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
