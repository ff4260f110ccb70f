"""`flow-worker check-access`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from pydantic import JsonValue, SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow_contracts.guid import NotGuid, parse_typed_guid
from flow_worker import settings
from flow_worker.cli import terminal
from flow_worker.cli.access_explanation import Asked, Decision, Outcome, decide
from flow_worker.cli.terminal import AsJson, Config, plain
from flow_worker.settings import InvalidSettings

_CLAIM = "FLOW_WORKER_CLAIM"
_EXITS = {Outcome.YES: 0, Outcome.NO: 1, Outcome.OPEN: 3}
_MARKS = {Outcome.YES: ("\N{CHECK MARK}", "green"), Outcome.NO: ("\N{BALLOT X}", "red"), Outcome.OPEN: ("?", "yellow")}


def check_access(
    flow: Annotated[str, typer.Option("--flow", help="The flow's name.")],
    token: Annotated[
        str | None, typer.Option("--token", help=f"The sender's claim; - for stdin. Default: ${_CLAIM}.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="Instead of a token: the Entra object ID of a user.")
    ] = None,
    on_behalf_of: Annotated[
        str | None, typer.Option("--on-behalf-of", help="Object ID of the user whom the sender names.")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Explain step by step whether a sender may start a flow, without calling it.

    Exit 0 if it may, 1 if it would be refused, 3 if that cannot be told now.
    """
    asked = Asked(flow, _claim(token, user), _object_id("--user", user), on_behalf_of)
    try:
        decision = asyncio.run(decide(settings.load(config), asked))
    except InvalidSettings as error:
        terminal.fail(f"The settings do not hold:\n{error}", 2)
    if as_json:
        typer.echo(json.dumps(_document(decision), indent=2))
    else:
        _tell(terminal.out, decision)
    raise typer.Exit(_EXITS[decision.outcome])


def _claim(token: str | None, user: str | None) -> SecretStr | None:
    if user is not None:
        if token is not None:
            terminal.fail("Give --token or --user, not both: a token tells by itself whose it is.", 2)
        return None
    if token == "-":  # noqa: S105 - the option's way to say stdin
        token = sys.stdin.read()
    token = token or os.environ.get(_CLAIM)
    if not token or not token.strip():
        terminal.fail(f"Whose access? Give --token (or set {_CLAIM}), or --user.", 2)
    return SecretStr(token.strip())


def _object_id(option: str, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return parse_typed_guid(value)
    except NotGuid:
        terminal.fail(f"{option} must be an Entra object ID, as 11111111-2222-3333-4444-555555555555.", 2)


def _document(decision: Decision) -> dict[str, JsonValue]:
    return {
        "flow": decision.flow,
        "outcome": decision.outcome.value,
        "code": decision.deciding.code,
        "steps": [asdict(step) for step in decision.steps],
    }


def _tell(console: Console, decision: Decision) -> None:
    """The steps as a numbered list, and below it what a request would come to."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for number, step in enumerate(decision.steps, 1):
        mark = Text(*_MARKS[step.outcome])
        grid.add_row(f"{number}.", mark, Text.assemble((step.question, "bold"), "\n", plain(step.because)))
    console.print(grid)
    console.print(Text.assemble("\n", _ending(decision)))


def _ending(decision: Decision) -> Text:
    flow = plain(f"'{decision.flow}'")
    match decision.outcome:
        case Outcome.YES:
            return Text.assemble(("Allowed: ", "green"), flow, " would be called.")
        case Outcome.NO:
            told = f" would not be called, and the sender would be told '{decision.deciding.code}'."
            return Text.assemble(("Refused: ", "red"), flow, told)
        case Outcome.OPEN:
            return Text.assemble(("Not known: ", "yellow"), flow, " depends on what has a question mark above.")
