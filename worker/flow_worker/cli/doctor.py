"""`flow-worker doctor`: check an installation from where the worker runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from flow_worker.cli import terminal
from flow_worker.cli.terminal import AsJson, Config, EnvFile, plain

if TYPE_CHECKING:
    from pydantic import JsonValue
    from rich.console import Console

    from flow_worker.doctor import Finding

_MARKS = {
    "ok": ("\N{CHECK MARK}", "green"),
    "failed": ("\N{BALLOT X}", "red"),
    "unseen": ("\N{EN DASH}", "yellow"),
}


def doctor(as_json: AsJson = False, config: Config = None, env_file: EnvFile = None) -> None:
    """Check settings, network, identity, queues, journal and services from here; exit with 1 if a check failed.

    It consumes no message and calls no flow, so it may run beside a worker. Exit with 2 if the settings are invalid.
    """
    import asyncio
    import logging
    from dataclasses import asdict
    from functools import partial

    from flow_worker import settings
    from flow_worker.doctor import examine
    from flow_worker.settings import InvalidSettings

    # The report says in one line what the libraries log with a traceback.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        loaded = settings.load(config, env_file)
    except InvalidSettings as error:
        if as_json:
            faults: list[JsonValue] = [*str(error).splitlines()]
            terminal.echo(terminal.json_text({"ok": False, "settings": faults, "checks": []}, indent=2))
            raise typer.Exit(2) from None
        terminal.fail_settings(error)
    if as_json:
        findings = asyncio.run(examine(loaded))
        failed = sum(finding.outcome == "failed" for finding in findings)
        checks = [{**asdict(finding), "outcome": str(finding.outcome)} for finding in findings]
        terminal.echo(terminal.json_text({"ok": failed == 0, "settings": [], "checks": [*checks]}, indent=2))
        raise typer.Exit(1 if failed else 0)
    console = terminal.out
    _print_line(console, "ok", "settings: valid", "")
    with console.status("The checks run; a check ends after 40 s at the latest.", spinner="line"):
        findings = asyncio.run(examine(loaded, partial(_print, console)))
    raise typer.Exit(_end(console, findings))


def _print(console: Console, finding: Finding) -> None:
    _print_line(console, finding.outcome, f"{finding.subject}: {finding.name}: {finding.detail}", finding.remedy)


def _end(console: Console, findings: list[Finding]) -> int:
    """Print the numbers; return the exit status."""
    failed = sum(finding.outcome == "failed" for finding in findings)
    unseen = sum(finding.outcome == "unseen" for finding in findings)
    ok = len(findings) + 1 - failed - unseen
    console.print(f"{ok} well, {failed} failed, {unseen} not seen from here.", highlight=False)
    return 1 if failed else 0


def _print_line(console: Console, outcome: str, text: str, remedy: str) -> None:
    if not console.is_terminal:
        console.print(_line(outcome, text, remedy), soft_wrap=True)  # one line for programs
        console.file.flush()
        return
    mark, style = _MARKS[outcome]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style), _described(text, remedy))
    console.print(grid)


def _line(outcome: str, text: str, remedy: str) -> Text:
    return Text.assemble(_MARKS[outcome], " ", _described(text, remedy))


def _described(text: str, remedy: str) -> Text:
    line = plain(text)
    return line.append(" \N{RIGHTWARDS ARROW} ").append(plain(remedy, "bold")) if remedy else line
