"""The pages of `--help` of both programs: aligned tables in every width, colours only where they are understood."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from flow_worker.cli import help_page, parsing
from flow_worker.cli.main import cli as worker
from servicebus_emulator import help_page as emulators_help_page
from servicebus_emulator import parsing as emulators_parsing
from servicebus_emulator.cli import cli as emulator

_SEQUENCE = re.compile(r"\x1b\[[\d;]*m")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command and group."""
    yield path
    for name, inner in getattr(group, "commands", {}).items():
        yield from commands(inner, (*path, name))


def pages(cli: typer.Typer, columns: int) -> Iterator[str]:
    """Yield the help of each command."""
    runner = CliRunner(env={"COLUMNS": str(columns)})
    for command in commands(get_command(cli)):
        result = runner.invoke(cli, [*command, "--help"])
        assert result.exit_code == 0
        yield result.stdout


@pytest.mark.parametrize("columns", [60, 80, 120, 300])
@pytest.mark.parametrize("cli", [worker, emulator])
def test_a_page_fits_the_terminal_and_its_tables_are_aligned(cli: typer.Typer, columns: int) -> None:
    for page in pages(cli, columns):
        assert max(map(len, page.splitlines())) < min(columns, 121), page
        for table in re.findall(r"^(?:Arguments|Options|Commands):\n((?: .*\n)+)", page, re.MULTILINE):
            rows = re.findall(r"^  (?=\S)(.*?\S  +|)\S.*$|^( +)\S.*$", table, re.MULTILINE)
            assert len({len(name) + 2 if name else len(indent) for name, indent in rows if name or indent}) == 1, table


def test_a_page_shows_defaults_bounds_and_variables() -> None:
    page = CliRunner(env={"COLUMNS": "80"}).invoke(worker, ["send", "-h"]).stdout
    assert "  --connect-seconds <float range>  Seconds after which the command gives up if\n" in page
    assert "                                   [default: 10; 1<=x<=300]\n" in page
    assert "  flow <str>             The flow's name. [required]\n" in page
    assert "$FLOW_WORKER_CONFIG, else flow-worker.toml.\n" in page
    assert "The claim\ncomes from $FLOW_WORKER_CLAIM.\n\nWith --json" in page


def test_colours_change_no_character() -> None:
    command: Any = get_command(worker)
    ctx = command.context_class(command, info_name="flow-worker")
    styled = help_page.render(command, ctx, styled=True)
    assert styled != help_page.render(command, ctx, styled=False)
    assert _SEQUENCE.sub("", styled) == help_page.render(command, ctx, styled=False)


def test_only_a_terminal_that_wants_colours_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert help_page.is_styled(Terminal())
    assert not help_page.is_styled(io.StringIO())
    monkeypatch.setattr(sys, "platform", "win32")  # its older consoles print the sequences
    monkeypatch.delenv("WT_SESSION", raising=False)
    assert not help_page.is_styled(Terminal())
    monkeypatch.setenv("WT_SESSION", "1")
    assert help_page.is_styled(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not help_page.is_styled(Terminal())


@pytest.mark.parametrize(
    ("encoding", "text"), [("ascii", "FLOW_WORKER_... variables"), ("cp1252", "FLOW_WORKER_\N{HORIZONTAL ELLIPSIS}")]
)
def test_help_and_errors_print_in_every_encoding(encoding: str, text: str) -> None:
    env = os.environ | {"PYTHONIOENCODING": encoding}

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, env=env, check=False, timeout=60)
        return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)

    status, page, errors = run("flow_worker", "check", "--help")
    assert (status, text in " ".join(page.split()), errors) == (0, True, "")
    status, page, errors = run("servicebus_emulator", "serve", "--host")
    assert (status, page, errors) == (2, "", "Error: Option '--host' requires an argument.\n")
    status, page, errors = run("flow_worker", "--\N{SNOWMAN}")
    assert (status, page, "Error: No such option: --\\u2603" in errors) == (2, "", True), errors


def test_both_programs_print_help_in_the_same_way() -> None:
    """The two packages do not know each other, so each has the two modules."""

    def source(module: Any) -> str:
        text = Path(module.__file__).read_text(encoding="utf-8")
        return text.replace("from flow_worker.cli import", "from servicebus_emulator import")

    assert source(help_page) == source(emulators_help_page)
    assert source(parsing) == source(emulators_parsing)
