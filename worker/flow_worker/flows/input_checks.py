"""Checks inputs against the flows' schemas: cheap checks on the event loop, all others in a process with a deadline.

A regular expression or a recursive schema can take for ever for a small input, and nothing can interrupt it in a
thread. One sender's slow inputs must not take another sender's turn either, so each sender has one turn at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Hashable, Mapping
from typing import Self

from pydantic import JsonValue

from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.check_turns import CheckTurns, Turn
from flow_worker.flows.input_schema import size_of
from flow_worker.flows.registry import Flow
from flow_worker.flows.schema_worker import LimitExceeded, ProcessEnded, SchemaWorker
from flow_worker.settings import FlowSettings, InputCheckSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_MAX_LOOP_COST = 3_000
"""Parts of a schema times the size of the input. A check of this cost takes about 30 ms at most."""

_START_PATIENCE_SECONDS = 5.0
"""How long a request waits in its lane for the start of a process, which goes on without it."""

_STARTS = 2
"""A process may end between two checks, so the second one decides."""


class InputChecks:
    """Checks inputs. It starts its processes when it needs them."""

    def __init__(
        self, flows: Mapping[str, FlowSettings], settings: InputCheckSettings, lanes: Mapping[str, int] | None = None
    ) -> None:
        """`lanes` is the number of lanes of each queue, a quarter of which may wait for checks or run them."""
        self._schemas = {name: flow.input_schema for name, flow in flows.items() if flow.input_schema is not None}
        self._settings = settings
        self._idle: list[SchemaWorker] = []
        self._start: asyncio.Task[None] | None = None
        self._turns = CheckTurns(settings.processes, settings.wait_seconds, lanes or {})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the processes."""
        if self._start is not None:
            self._start.cancel()
            await asyncio.wait([self._start])
        while self._idle:
            await self._idle.pop().end()

    async def require(self, flow: Flow, value: JsonValue, sender: Hashable, queue: str = "") -> None:
        """Raise `Refused` unless the input fits the flow's schema. The message names the place, not the value.

        `queue` is the queue of the lane. Raises `TemporarilyUnavailable` if no process is free for this sender.
        """
        if flow.input_validator is None:
            return
        enough = _MAX_LOOP_COST // flow.schema_weight
        if size_of(value, enough) <= enough:
            fault = flow.input_fault(value)
        else:
            fault = await self._fault(flow.name, value, sender, queue)
        if fault is not None:
            text = f"The input does not fit the schema of '{flow.name}': {fault}."
            raise Refused("input_schema_mismatch", text)

    async def _fault(self, flow: str, value: JsonValue, sender: Hashable, queue: str) -> str | None:
        async with self._turns.hold(sender, queue) as turn:
            try:
                return await self._checked(flow, value, sender, turn)
            except LimitExceeded as exceeded:
                self._turns.usage.exceed(sender)
                sentence = "A check of an input took too long or too much memory; its process ended."
                log(_log, logging.WARNING, "input_check.exceeded", sentence, flow=flow, limit=str(exceeded))
                raise Refused(
                    "input_too_complex",
                    f"The check of the input against the schema of '{flow}' exceeded the worker's limits of time or "
                    "memory; send a smaller or simpler input.",
                ) from None
            except ProcessEnded as ended:
                sentence = f"A process that checks inputs {ended}."
                log(_log, logging.WARNING, "input_check.process_failed", sentence, flow=flow)
                cause = "the process that checks inputs does not work"
                raise TemporarilyUnavailable("input_check_unavailable", cause) from None

    async def _checked(self, flow: str, value: JsonValue, sender: Hashable, turn: Turn) -> str | None:
        for _ in range(_STARTS - 1):
            with contextlib.suppress(ProcessEnded):
                return await self._checked_once(flow, value, sender, turn)
        return await self._checked_once(flow, value, sender, turn)

    async def _checked_once(self, flow: str, value: JsonValue, sender: Hashable, turn: Turn) -> str | None:
        worker = await self._process()
        began = time.monotonic()  # after the start, which is not the sender's doing
        try:
            fault = await turn.run(worker.fault(flow, value))  # an error ends the process
        finally:
            self._turns.usage.add(sender, time.monotonic() - began)
        self._idle.append(worker)
        return fault

    async def _process(self) -> SchemaWorker:
        """Return an idle process, or start one. Raises `ProcessEnded`, `TemporarilyUnavailable`."""
        try:
            async with asyncio.timeout(_START_PATIENCE_SECONDS):
                while not self._idle:
                    if self._start is None or self._start.done():
                        self._start = asyncio.create_task(self._started())
                        self._start.add_done_callback(_retrieve)
                    # The start goes on if this request leaves its lane: the next one finds the process.
                    await asyncio.shield(self._start)
        except TimeoutError:
            raise TemporarilyUnavailable("input_check_busy", "the process that checks inputs is starting") from None
        return self._idle.pop()

    async def _started(self) -> None:
        self._idle.append(await SchemaWorker.start(self._schemas, self._settings))


def _retrieve(start: asyncio.Task[None]) -> None:
    """Retrieve the error of a start that no request waits for any more: the next request meets it too."""
    if not start.cancelled():
        start.exception()
