"""`flow-worker doctor`: check an installation from where the worker runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flow_worker.cli import terminal
from flow_worker.cli.terminal import AsJson, Config, EnvFile

if TYPE_CHECKING:
    from pydantic import JsonValue


def doctor(as_json: AsJson = False, config: Config = None, env_file: EnvFile = None) -> None:
    """Check settings, network, identity, queues, journal and services from here; exit with 1 if a check failed.

    It consumes no message and calls no flow, so it may run beside a worker. Exit with 2 if the settings are invalid.
    """
    import asyncio
    import logging
    from dataclasses import asdict
    from functools import partial

    from flow_worker import settings
    from flow_worker.cli import doctor_render
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
    console = terminal.out()
    doctor_render.print_line(console, "ok", "settings: valid", "")
    with console.status("The checks run; a check ends after 40 s at the latest.", spinner="line"):
        findings = asyncio.run(examine(loaded, partial(doctor_render.print_finding, console)))
    raise typer.Exit(doctor_render.print_numbers(console, findings))
