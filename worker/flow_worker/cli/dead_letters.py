"""`flow-worker deadletters list | show | replay | discard`."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from pydantic import JsonValue
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flow_contracts.servicebus import DeadLetteredMessage, ServiceBus, ServiceBusFailure
from flow_worker.cli import dead_letter_render, dead_letter_view, terminal
from flow_worker.cli.dead_letter_actions import Act, Settled, discard, replay, settle
from flow_worker.cli.dead_letter_filter import Selection
from flow_worker.cli.dead_letter_view import Letter
from flow_worker.cli.terminal import AsJson, Config, EnvFile
from flow_worker.pipeline import decode
from flow_worker.pipeline.decode import Reader
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import (
    ContinuationSettings,
    IdentitySettings,
    InvalidSettings,
    Layered,
    RequestQueue,
    ServiceBusSettings,
    load_as,
)

_T = TypeVar("_T")

cli = typer.Typer(no_args_is_help=True, help="Look after what lies in the dead-letter queues.")

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Sequence numbers, message or correlation IDs.")]
Queues = Annotated[list[str] | None, typer.Option("--queue", help="Only of this queue; may be given again.")]
Reason = Annotated[str | None, typer.Option(help="Only those with this dead-letter reason.")]
Flow = Annotated[str | None, typer.Option(help="Only those that ask for this flow.")]
All = Annotated[bool, typer.Option("--all", help="All there are.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


class QueueSettings(Layered):
    """The part of the worker's settings that tells where dead letters lie."""

    servicebus: ServiceBusSettings
    request_queues: tuple[RequestQueue, ...] = (RequestQueue(name="flow-requests"),)
    continuations: ContinuationSettings = ContinuationSettings()
    identity: IdentitySettings = IdentitySettings()


@cli.command("list")
def list_(
    queue: Queues = None,
    reason: Reason = None,
    flow: Flow = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Show at most so many; all are counted.")] = None,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = Path(".env"),
) -> None:
    """List what lies there, and count it by reason."""
    settings = _loaded(config, env_file)
    selection = replace(_all_of(settings, queue), reason=reason, flow=flow)
    letters = _on_bus(settings, selection.letters)
    if as_json:
        _print_json([one.as_json() for one in letters[:limit]])
    else:
        dead_letter_render.listed(terminal.out, letters, limit)


@cli.command()
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Its sequence number, message or correlation ID.")],
    queue: Queues = None,
    with_input: Annotated[bool, typer.Option("--input", help="Show the flow's input too.")] = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = Path(".env"),
) -> None:
    """Show everything of one dead letter but its claim; exit 3 if there is none."""
    settings = _loaded(config, env_file)
    selection = replace(_all_of(settings, queue), ids=frozenset({id_}))

    def whole(one: Letter, dead: DeadLetteredMessage) -> dict[str, JsonValue]:
        return dead_letter_view.whole(one, dead.message, selection.queues[one.queue], with_input=with_input)

    documents = _on_bus(settings, lambda bus: selection.found(bus, whole))
    if not documents:
        terminal.fail(f"No dead letter {id_} in {', '.join(selection.queues)}.", 3)
    if as_json:
        _print_json([*documents])
    for document in [] if as_json else documents:
        dead_letter_render.whole(terminal.out, document)


@cli.command("replay")
def replay_(
    ids: Ids = None,
    queue: Queues = None,
    reason: Reason = None,
    flow: Flow = None,
    everything: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = Path(".env"),
) -> None:
    """Make new requests of dead letters, with the old correlation IDs; exit 1 if any is left.

    Each flow is called anew, even if it ran for the dead letter.
    """
    settings = _loaded(config, env_file)
    letters = _chosen(settings, ids, queue, reason, flow, everything=everything)
    obstructed = [Settled(one, left=one.obstacle) for one in letters if one.obstacle is not None]
    rest = [one for one in letters if one.obstacle is None]
    if dry_run:
        _end([*(Settled(one) for one in rest), *obstructed], "Would replay", as_json=as_json)
    _confirm(rest, "Replay", "Their flows are called anew, even if they ran before.", yes=yes)
    continuations, readers = settings.continuations.queue, _readers(settings)
    outcomes = _settled(settings, rest, lambda bus: replay(bus, continuations, readers), "replaying")
    _end([*outcomes, *obstructed], "Replayed", as_json=as_json)


@cli.command("discard")
def discard_(
    ids: Ids = None,
    queue: Queues = None,
    reason: Reason = None,
    flow: Flow = None,
    everything: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = Path(".env"),
) -> None:
    """Delete dead letters, and with them the last copy of their requests and inputs; exit 1 if any is left."""
    settings = _loaded(config, env_file)
    letters = _chosen(settings, ids, queue, reason, flow, everything=everything)
    if dry_run:
        _end([Settled(one) for one in letters], "Would discard", as_json=as_json)
    _confirm(letters, "Discard", "Their requests and inputs are gone for good then.", yes=yes)
    _end(_settled(settings, letters, lambda _: discard, "discarding"), "Discarded", as_json=as_json)


def _all_of(settings: QueueSettings, only: list[str] | None) -> Selection:
    """All that lies in the worker's queues, or in those of them that are named."""
    queues = _readers(settings)
    if unknown := set(only or ()).difference(queues):
        terminal.fail(f"--queue {', '.join(sorted(unknown))}: the worker's queues are {', '.join(queues)}.", 2)
    return Selection({queue: reader for queue, reader in queues.items() if not only or queue in only})


def _readers(settings: QueueSettings) -> dict[str, Reader]:
    return decode.readers(settings.request_queues, settings.continuations.queue)


def _chosen(
    settings: QueueSettings,
    ids: list[str] | None,
    queue: list[str] | None,
    reason: str | None,
    flow: str | None,
    *,
    everything: bool,
) -> list[Letter]:
    """What the command is to be done with. An ID that is not there ends it before anything is done."""
    if everything and ids:
        terminal.fail("Give either IDs or --all, not both.", 2)
    if not (everything or ids or reason or flow):
        terminal.fail("Say which: by sequence number, message or correlation ID, by --reason, by --flow, or --all.", 2)
    selection = replace(_all_of(settings, queue), ids=frozenset(ids or ()), reason=reason, flow=flow)
    letters = _on_bus(settings, selection.letters)
    if missing := selection.not_among(letters):
        terminal.fail(f"No such dead letter: {', '.join(missing)}. Nothing was done.", 3)
    return letters


def _confirm(letters: Sequence[Letter], verb: str, warning: str, *, yes: bool) -> None:
    if yes or len(letters) <= 1:
        return
    if not sys.stdin.isatty():
        terminal.fail(f"{verb} {len(letters)} messages? Add --yes, since nobody can be asked here.", 2)
    terminal.err.print(dead_letter_render.counted(letters))
    typer.confirm(f"{verb} these {len(letters)} messages? {warning}", abort=True, err=True)


def _settled(
    settings: QueueSettings, letters: Sequence[Letter], act_on: Callable[[ServiceBus], Act], doing: str
) -> list[Settled]:
    outcomes: list[Settled] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal.err, disable=not terminal.err.is_terminal) as progress:
        bar = progress.add_task(doing, total=len(letters))

        def say(outcome: Settled) -> None:
            outcomes.append(outcome)
            progress.advance(bar)

        _on_bus(settings, lambda bus: settle(bus, letters, act_on(bus), say))
    return outcomes


def _end(outcomes: Sequence[Settled], done: str, *, as_json: bool) -> NoReturn:
    if as_json:
        _print_json([one.as_json() for one in outcomes])
    else:
        dead_letter_render.settled(terminal.out, outcomes, done)
    raise typer.Exit(1 if any(one.left is not None for one in outcomes) else 0)


def _print_json(documents: Sequence[JsonValue]) -> None:
    typer.echo(json.dumps(documents, indent=2))


def _loaded(config: Path | None, env_file: Path) -> QueueSettings:
    try:
        return load_as(QueueSettings, config, env_file)
    except InvalidSettings as error:
        terminal.fail(f"The settings do not hold:\n{error}", 2)


def _on_bus(settings: QueueSettings, work: Callable[[ServiceBus], Awaitable[_T]]) -> _T:
    async def connected() -> _T:
        async with open_service_bus(settings.servicebus, client_id=settings.identity.client_id) as bus:
            return await work(bus)

    logging.getLogger("azure").addHandler(logging.NullHandler())  # it has a traceback for what is told in a sentence
    try:
        return asyncio.run(connected())
    except ServiceBusFailure as trouble:
        terminal.fail(f"Service Bus: {trouble}", 2)
