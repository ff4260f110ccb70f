"""`flow-worker doctor`: check an installation from where the worker runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.text import Text

from flow_worker.cli import terminal
from flow_worker.cli.terminal import AsJson, Config, EnvFile, plain

if TYPE_CHECKING:
    from pydantic import JsonValue

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
    findings = asyncio.run(examine(loaded))
    failed = sum(finding.outcome == "failed" for finding in findings)
    if as_json:
        checks = [{**asdict(finding), "outcome": str(finding.outcome)} for finding in findings]
        terminal.echo(terminal.json_text({"ok": failed == 0, "settings": [], "checks": [*checks]}, indent=2))
    else:
        _print(findings, failed)
    raise typer.Exit(1 if failed else 0)


def _print(findings: list[Finding], failed: int) -> None:
    unseen = sum(finding.outcome == "unseen" for finding in findings)
    terminal.out.print(_line("ok", "settings: valid", ""), soft_wrap=True)
    for finding in findings:
        text = f"{finding.subject}: {finding.name}: {finding.detail}"
        terminal.out.print(_line(finding.outcome, text, finding.remedy), soft_wrap=True)
    ok = len(findings) + 1 - failed - unseen
    terminal.out.print(f"{ok} well, {failed} failed, {unseen} not seen from here.", highlight=False)


def _line(outcome: str, text: str, remedy: str) -> Text:
    line = Text.assemble(_MARKS[outcome], " ", plain(text))
    return line.append(" \N{RIGHTWARDS ARROW} ").append(plain(remedy, "bold")) if remedy else line
