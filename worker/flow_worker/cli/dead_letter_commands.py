"""Carries out the `deadletters` commands: selects, confirms, settles and prints."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NoReturn, TypeVar

import typer
from pydantic import Field, JsonValue

from flow_contracts.servicebus import DeadLetteredMessage, ServiceBus, ServiceBusFailure
from flow_worker.cli import dead_letter_render, terminal
from flow_worker.cli.counter import Counter
from flow_worker.cli.short_ids import ambiguous, is_meant
from flow_worker.dead_letters import actions
from flow_worker.dead_letters.actions import DeadLetterAction, DeadLetterOutcome, replay_with, settle_all
from flow_worker.dead_letters.filter import DeadLetterFilter
from flow_worker.dead_letters.view import DeadLetterView, view_details
from flow_worker.pipeline import decode
from flow_worker.pipeline.decode import Reader
from flow_worker.pipeline.seal import Seal
from flow_worker.runtime.seal_keys import find_seal, key_file
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import (
    ContinuationSettings,
    DataverseSettings,
    HttpSettings,
    IdentitySettings,
    InvalidSettings,
    JournalSettings,
    Layered,
    RecordedFlow,
    RequestQueue,
    RunRecordSettings,
    ServiceBusSettings,
    load_as,
)

_T = TypeVar("_T")


class DeadLetterCommandSettings(Layered):
    """The part of the worker's settings that locates the dead letters."""

    servicebus: ServiceBusSettings
    request_queues: tuple[RequestQueue, ...] = (RequestQueue(name="flow-requests"),)
    continuations: ContinuationSettings = ContinuationSettings()
    identity: IdentitySettings = IdentitySettings()
    journal: JournalSettings = JournalSettings()
    dataverse: DataverseSettings = DataverseSettings()
    run_records: RunRecordSettings = RunRecordSettings()
    http: HttpSettings = HttpSettings()
    flows: dict[str, RecordedFlow] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Criteria:
    """The options of a command that select dead letters."""

    queues: Sequence[str] = ()
    """An empty sequence means all of the worker's queues."""
    ids: Sequence[str] = ()
    reason: str | None = None
    flow: str | None = None
    everything: bool = False


def load(config: Path | None, env_file: Path | None) -> DeadLetterCommandSettings:
    """Read the settings; exit with status 2 if they are invalid."""
    try:
        return load_as(DeadLetterCommandSettings, config, env_file)
    except InvalidSettings as error:
        terminal.fail_settings(error)


def list_(settings: DeadLetterCommandSettings, criteria: Criteria, *, limit: int | None, as_json: bool) -> None:
    """Print the matches."""
    views = _on_bus(settings, _filter(settings, criteria).views)
    if as_json:
        _print_json([view.as_json() for view in views[:limit]])
    else:
        dead_letter_render.print_list(terminal.out(), views, limit)


def show(settings: DeadLetterCommandSettings, criteria: Criteria, *, with_input: bool, as_json: bool) -> None:
    """Print the whole of each match; exit with status 3 if there is none."""
    dead_letters = _filter(settings, criteria)

    def details(view: DeadLetterView, dead: DeadLetteredMessage) -> dict[str, JsonValue]:
        return view_details(view, dead.message, dead_letters.queues[view.queue], with_input=with_input)

    documents = _on_bus(settings, lambda bus: dead_letters.select(bus, details))
    if not documents and (meant := _meant(settings, criteria)):
        show(settings, replace(criteria, ids=[meant]), with_input=with_input, as_json=as_json)
        return
    if not documents:
        terminal.fail(f"There is no dead letter {', '.join(criteria.ids)} in {', '.join(dead_letters.queues)}.", 3)
    if as_json:
        _print_json([*documents])
    for document in [] if as_json else documents:
        dead_letter_render.print_details(terminal.out(), document)


def _meant(settings: DeadLetterCommandSettings, criteria: Criteria) -> str | None:
    """Return the ID that the short form or beginning of one means; exit with status 2 if there are several."""
    [given] = criteria.ids
    views = _on_bus(settings, _filter(settings, replace(criteria, ids=())).views)
    ids = [(view.request_message_id, view.message_id, view.correlation_id) for view in views]
    found = [[id_ for id_ in each if id_ and is_meant(id_, given)] for each in ids]
    meant = [*dict.fromkeys(chain.from_iterable(found))]
    if len(meant) > 1 and sum(map(bool, found)) > 1:
        terminal.fail(ambiguous(given, meant), 2)
    return meant[0] if meant else None


def replay(
    settings: DeadLetterCommandSettings, criteria: Criteria, *, yes: bool, dry_run: bool, as_json: bool
) -> NoReturn:
    """Replay the matches after confirmation, print the outcomes, and exit."""
    views = _choose(settings, criteria)
    left = [DeadLetterOutcome(view, left=view.not_replayable) for view in views if view.not_replayable is not None]
    replayable = _with_run_notes(settings, [view for view in views if view.not_replayable is None])
    if not as_json:
        dead_letter_render.print_run_notes(terminal.err(), replayable)
    if dry_run:
        _finish([*map(DeadLetterOutcome, replayable), *left], "Would replay", as_json=as_json)
    if not replayable:
        _finish(left, "Replayed", as_json=as_json)
    ran = sum(view.run is not None and view.run.has_run for view in replayable)
    known = f" {ran} of them have a recorded flow run." if ran else ""
    consequence = f"The worker calls their flows again, even if they ran before.{known}"
    _confirm(replayable, "Replay", consequence, yes=yes, always=ran > 0)
    continuations, readers, seal = settings.continuations.queue, _readers(settings), _require_seal(settings)
    outcomes = _settle(settings, replayable, lambda bus: replay_with(bus, continuations, readers, seal), "replaying")
    _finish([*outcomes, *left], "Replayed", as_json=as_json)


def _with_run_notes(settings: DeadLetterCommandSettings, views: Sequence[DeadLetterView]) -> list[DeadLetterView]:
    """Return the dead letters with what the records of their runs say, as far as `run_records` is configured."""
    recorded = settings.run_records.flows(settings.flows)
    if not any(view.flow in recorded for view in views):
        return list(views)
    # Imported here: most commands need no HTTP client.
    from flow_worker.cli.dead_letter_runs import read_run_records

    return read_run_records(settings, views)


def discard(
    settings: DeadLetterCommandSettings, criteria: Criteria, *, yes: bool, dry_run: bool, as_json: bool
) -> NoReturn:
    """Delete the matches after confirmation, print the outcomes, and exit."""
    views = _choose(settings, criteria)
    if dry_run:
        _finish([*map(DeadLetterOutcome, views)], "Would discard", as_json=as_json)
    _confirm(views, "Discard", "This deletes the last copy of their requests and inputs.", yes=yes)
    outcomes = _settle(settings, views, lambda _: actions.discard, "discarding")
    _finish(outcomes, "Discarded", as_json=as_json)


def _filter(settings: DeadLetterCommandSettings, criteria: Criteria) -> DeadLetterFilter:
    readers = _readers(settings)
    # In lower case: Service Bus ignores the case of queue names.
    asked, known = {queue.lower() for queue in criteria.queues}, {queue.lower() for queue in readers}
    if unknown := [queue for queue in criteria.queues if queue.lower() not in known]:
        terminal.fail(f"--queue {', '.join(sorted(unknown))}: the worker's queues are {', '.join(readers)}.", 2)
    chosen = {queue: reader for queue, reader in readers.items() if not asked or queue.lower() in asked}
    return DeadLetterFilter(chosen, frozenset(criteria.ids), criteria.reason, criteria.flow)


def _readers(settings: DeadLetterCommandSettings) -> dict[str, Reader]:
    return decode.readers(settings.request_queues, settings.continuations.queue, _seal(settings))


def _seal(settings: DeadLetterCommandSettings) -> Seal | None:
    try:
        return find_seal(settings.continuations, settings.journal)
    except InvalidSettings as error:
        terminal.fail_settings(error)


def _require_seal(settings: DeadLetterCommandSettings) -> Seal:
    """Return the workers' seal; exit with status 2 without it, because no worker would accept the replays."""
    seal = _seal(settings)
    if seal is None:
        file = key_file(settings.continuations, settings.journal)
        place = f"'{file}' does not exist" if file is not None else "the settings name none"
        terminal.fail(
            f"A replay needs the key with which the workers seal continuation messages, and {place}. Set "
            "continuations.seal_key as for the workers, or run the command where their journal is.",
            2,
        )
    return seal


def _choose(settings: DeadLetterCommandSettings, criteria: Criteria) -> list[DeadLetterView]:
    """Return the dead letters to act on. An ID without a dead letter ends the command before it acts on any."""
    if criteria.everything and criteria.ids:
        terminal.fail("Give either IDs or --all, not both.", 2)
    if not (criteria.everything or criteria.ids or criteria.reason or criteria.flow):
        terminal.fail("Select dead letters: give IDs, --reason, --flow, or --all.", 2)
    dead_letters = _filter(settings, criteria)
    with Counter(terminal.err(), "reading dead letters") as counter:

        def view(found: DeadLetterView, _: DeadLetteredMessage) -> DeadLetterView:
            counter.advance()
            return found

        views = _on_bus(settings, lambda bus: dead_letters.select(bus, view))
    if unmatched := dead_letters.unmatched_ids(views):
        terminal.fail(f"There is no such dead letter: {', '.join(unmatched)}. Nothing was done.", 3)
    return views


def _confirm(views: Sequence[DeadLetterView], verb: str, consequence: str, *, yes: bool, always: bool = False) -> None:
    """Ask before an action on several messages; with `always` also before one on a single message."""
    if yes or (len(views) <= 1 and not always):
        return
    messages = "this message" if len(views) == 1 else f"these {len(views)} messages"
    if not sys.stdin.isatty():
        sentence = f"{verb} {messages}? {consequence} " if always else f"{verb} {len(views)} messages? "
        terminal.fail(f"{sentence}Without a terminal, confirm with --yes.", 2)
    terminal.err().print(dead_letter_render.totals(views))
    typer.confirm(f"{verb} {messages}? {consequence}", abort=True, err=True)


def _settle(
    settings: DeadLetterCommandSettings,
    views: Sequence[DeadLetterView],
    action: Callable[[ServiceBus], DeadLetterAction],
    description: str,
) -> list[DeadLetterOutcome]:
    outcomes: list[DeadLetterOutcome] = []
    with Counter(terminal.err(), description, len(views)) as counter:

        def report(outcome: DeadLetterOutcome) -> None:
            outcomes.append(outcome)
            counter.advance()

        _on_bus(settings, lambda bus: settle_all(bus, views, action(bus), report))
    return outcomes


def _finish(outcomes: Sequence[DeadLetterOutcome], verb: str, *, as_json: bool) -> NoReturn:
    if as_json:
        _print_json([outcome.as_json() for outcome in outcomes])
    else:
        dead_letter_render.print_outcomes(terminal.out(), outcomes, verb)
    raise typer.Exit(1 if any(outcome.left is not None for outcome in outcomes) else 0)


def _print_json(documents: Sequence[JsonValue]) -> None:
    terminal.echo(terminal.json_text([*documents], indent=2))


def _on_bus(settings: DeadLetterCommandSettings, work: Callable[[ServiceBus], Awaitable[_T]]) -> _T:
    async def connected() -> _T:
        async with open_service_bus(settings.servicebus, client_id=settings.identity.client_id) as bus:
            return await work(bus)

    # The SDK logs a traceback for each failure, which the command reports in one sentence.
    logging.getLogger("azure").addHandler(logging.NullHandler())
    try:
        return asyncio.run(connected())
    except ServiceBusFailure as error:
        terminal.fail(f"Service Bus: {error}", 2)
