"""The command line before any command runs: `--help`, `--version`, completion, and what they import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from flow_worker.cli.main import cli

HEAVY = {
    "aiohttp",
    "asyncio",
    "attr",
    "azure",
    "cryptography",
    "httpx",
    "jsonschema",
    "jwt",
    "markdown_it",
    "pydantic",
    "pydantic_core",
    "pydantic_settings",
    "pygments",
    "rich",
    "ssl",
}
_PROGRAM = """
import contextlib, io, json, sys
from flow_worker.cli.main import cli
output = io.StringIO()
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), contextlib.suppress(SystemExit):
        cli(arguments, prog_name="flow-worker")
print(json.dumps([sorted(sys.modules), output.getvalue()]))
"""


def imports_of(*command_lines: list[str]) -> tuple[set[str], str]:
    """Return the modules that one process needs for these command lines, and all it prints."""
    arguments = [sys.executable, "-c", _PROGRAM, json.dumps(command_lines)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    modules, output = json.loads(done.stdout)
    return set(modules), output


def commands(group: object = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command and group."""
    command = group or get_command(cli)
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def test_the_help_of_every_command_imports_neither_the_worker_nor_its_libraries() -> None:
    """Time differs between machines. The imports decide it: with them, `--help` took a second of processor time."""
    asked = [[*command, "--help"] for command in commands()]
    assert ["deadletters", "replay", "--help"] in asked
    modules, output = imports_of(*asked, ["--version"])
    assert output.count("Usage: ") == len(asked)
    assert HEAVY & {module.partition(".")[0] for module in modules} == set()
    assert [one for one in modules if one.startswith("flow_worker.") and not one.startswith("flow_worker.cli")] == []
    assert "typer.rich_utils" not in modules


def test_the_help_of_a_command_imports_no_other_command() -> None:
    modules, _ = imports_of(["send", "--help"], ["sned"])
    assert "flow_worker.cli.requests" in modules
    assert {f"flow_worker.cli.{name}" for name in ("access", "demo", "journal", "worker")} & modules == set()


def test_the_usual_errors_of_a_command_line_are_as_quick_as_the_help() -> None:
    wrong = {
        ("sned",): "Error: No such command 'sned'. Did you mean 'send'?",
        ("journal", "lsit"): "Error: No such command 'lsit'. Did you mean 'list'?",
        ("--verzion",): "Error: No such option: --verzion (Possible options: --version)",
        ("send", "f", "--wiat", "3"): "Error: No such option: --wiat (Possible options: --input, --wait)",
        ("send",): "Error: Missing argument 'flow'.",
        ("journal", "show"): "Error: Missing argument 'ID'.",
        ("check-access",): "Error: Missing option '--flow'.",
        ("check-access", "--flow"): "Error: Option '--flow' requires an argument.",
    }
    modules, output = imports_of(*map(list, wrong))
    assert [line for line in output.splitlines() if line.startswith("Error:")] == [*wrong.values()]
    assert HEAVY & {module.partition(".")[0] for module in modules} == set()


_WRONG = ("x", "-1", "1e999", "nan", "", "1e9", "9" * 400, "\x1b[31m", "12h3", "\N{SNOWMAN}")
_LIBRARY_WORDS = re.compile(
    r"value error|assertion failed|input should|validation error|pydantic|is not a valid (float|integer)|typeadapter",
    re.IGNORECASE,
)


def leaves(group: object = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each command that is no group, with its words."""
    command: Any = group or get_command(cli)
    if not hasattr(command, "commands"):
        yield path.strip(), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, f"{path} {name}")


def test_no_message_about_an_option_has_the_words_of_a_library() -> None:
    refused: dict[tuple[str, str], str] = {}
    for path, command in leaves():
        required = [one for one in command.params if one.required]
        needed = [word for one in required for word in ([one.opts[0], "x"] if one.opts[0][0] == "-" else ["x"])]
        for option in (one for one in command.params if one.param_type_name == "option" and not one.is_flag):
            for value in _WRONG:
                try:
                    command.make_context(path, [*needed, option.opts[0], value])  # it parses, and runs nothing
                except typer.BadParameter as error:
                    refused[path, f"{option.opts[0]} {value}"] = error.format_message()
    assert {("run", "--log-level x"), ("send", "--wait x"), ("journal list", "--limit -1")} <= refused.keys()
    assert {place: text for place, text in refused.items() if _LIBRARY_WORDS.search(text)} == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--log-level", "loud"], "'--log-level': 'loud' is not one of 'debug', 'info', 'warning', 'error'."),
        (["send", "f", "--wait", "soon"], "'--wait': must be a number, not 'soon'."),
        (["send", "f", "--wait", "-1"], "'--wait': must be at least 0, not '-1'."),
        (["status", "--every", "4000"], "'--every': must be at most 3600, not '4000'."),
        (["demo", "--burst", "1.5"], "'--burst': must be a whole number, not '1.5'."),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(arguments: list[str], message: str) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli, arguments)
    assert (result.exit_code, f"Invalid value for {message}" in result.output) == (2, True), result.output


@pytest.mark.parametrize("arguments", [["send", "f", "--wait", "x", "-h"], ["journal", "list", "--limit", "0", "-h"]])
def test_the_help_comes_before_the_check_of_the_options(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, "Usage:" in result.output) == (0, True)


def test_a_word_after_two_hyphens_asks_for_no_help() -> None:
    result = CliRunner().invoke(cli, ["init", "--", "-h", "x"])
    assert result.exit_code == 2


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_both_options_for_help(option: str) -> None:
    for command in commands():
        result = CliRunner().invoke(cli, [*command, option])
        assert (result.exit_code, "Usage:" in result.output) == (0, True), command


def test_the_version_is_the_installed_one() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"flow-worker {version('flow-worker')}\n")


@pytest.mark.parametrize(
    ("shell", "request_"),
    [
        ("bash", {"COMP_WORDS": "flow-worker deadletters re", "COMP_CWORD": "2"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "flow-worker deadletters re"}),
        ("pwsh", {"_TYPER_COMPLETE_ARGS": "flow-worker deadletters re", "_TYPER_COMPLETE_WORD_TO_COMPLETE": "re"}),
    ],
)
def test_a_shell_completes_commands(shell: str, request_: dict[str, str]) -> None:
    env = os.environ | request_ | {"_FLOW_WORKER_COMPLETE": f"complete_{shell}"}
    done = subprocess.run(
        [sys.executable, "-m", "flow_worker"], capture_output=True, text=True, env=env, check=False, timeout=60
    )
    assert "replay" in done.stdout, done
    assert "discard" not in done.stdout


def test_every_command_with_a_settings_file_also_takes_a_file_of_variables() -> None:
    def options(command: object) -> set[str]:
        return {option for parameter in getattr(command, "params", ()) for option in parameter.opts}

    def walk(command: object) -> Iterator[object]:
        yield command
        for inner in getattr(command, "commands", {}).values():
            yield from walk(inner)

    with_config = [command for command in walk(get_command(cli)) if "--config" in options(command)]
    assert len(with_config) > 5
    assert all("--env-file" in options(command) for command in with_config)
