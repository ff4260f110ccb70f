"""Checks inputs against the flows' schemas: cheap checks on the event loop, all others in a process with a deadline.

A regular expression or a recursive schema can take for ever for a small input, and nothing can interrupt it in a
thread. One sender's slow inputs must not take another sender's turn either, so each sender has one turn at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Self

from pydantic import JsonValue

from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.input_schema import size_of
from flow_worker.flows.registry import Flow
from flow_worker.flows.schema_worker import LimitExceeded, ProcessEnded, SchemaWorker
from flow_worker.settings import FlowSettings, InputCheckSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_MAX_LOOP_COST = 3_000
"""Parts of a schema times the size of the input. A check of this cost takes about 30 ms at most."""

_SLOW_SECONDS = 600.0
"""After a check that exceeded a limit, all slow senders together have one process for this long."""

_STARTS = 2
"""A process may end between two checks, so the second one decides."""


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class InputChecks:
    """Checks inputs. It starts its processes when it needs them."""

    def __init__(self, flows: Mapping[str, FlowSettings], settings: InputCheckSettings) -> None:
        self._schemas = {name: flow.input_schema for name, flow in flows.items() if flow.input_schema is not None}
        self._settings = settings
        self._idle: list[SchemaWorker] = []
        self._places = asyncio.Semaphore(settings.processes)
        self._slow_place = asyncio.Lock()
        self._turns: dict[Hashable, _Turn] = {}
        self._slow_until: dict[Hashable, float] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the processes."""
        while self._idle:
            await self._idle.pop().end()

    async def require(self, flow: Flow, value: JsonValue, sender: Hashable) -> None:
        """Raise `Refused` unless the input fits the flow's schema. The message names the place, not the value.

        Raises `TemporarilyUnavailable` if no process is free for this sender.
        """
        if flow.input_validator is None:
            return
        enough = _MAX_LOOP_COST // flow.schema_weight
        if size_of(value, enough) <= enough:
            fault = flow.input_fault(value)
        else:
            fault = await self._fault(flow.name, value, sender)
        if fault is not None:
            text = f"The input does not fit the schema of '{flow.name}': {fault}."
            raise Refused("input_schema_mismatch", text)

    async def _fault(self, flow: str, value: JsonValue, sender: Hashable) -> str | None:
        async with self._turn(sender):
            try:
                return await self._checked(flow, value)
            except LimitExceeded as exceeded:
                self._mark_slow(sender)
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

    async def _checked(self, flow: str, value: JsonValue) -> str | None:
        for _ in range(_STARTS - 1):
            with contextlib.suppress(ProcessEnded):
                return await self._checked_once(flow, value)
        return await self._checked_once(flow, value)

    async def _checked_once(self, flow: str, value: JsonValue) -> str | None:
        worker = self._idle.pop() if self._idle else await SchemaWorker.start(self._schemas, self._settings)
        fault = await worker.fault(flow, value)  # an error ends the process
        self._idle.append(worker)
        return fault

    # --- turns ---------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _turn(self, sender: Hashable) -> AsyncIterator[None]:
        """Hold one of the processes for a sender. Raises `TemporarilyUnavailable` after `wait_seconds`.

        The request then leaves its lane, and comes back as a continuation.
        """
        is_slow = self._is_slow(sender)
        async with contextlib.AsyncExitStack() as stack:
            try:
                # A slow sender does not wait: its requests would occupy all lanes meanwhile.
                async with asyncio.timeout(0 if is_slow else self._settings.wait_seconds):
                    await stack.enter_async_context(self._own_turn(sender))
                    if is_slow:
                        await stack.enter_async_context(self._slow_place)
                    await stack.enter_async_context(self._places)
            except TimeoutError:
                raise TemporarilyUnavailable(
                    "input_check_busy", "the processes that check inputs are busy; raise input_checks.processes"
                ) from None
            yield

    @contextlib.asynccontextmanager
    async def _own_turn(self, sender: Hashable) -> AsyncIterator[None]:
        """Hold the sender's own turn: it has one at a time, so that it cannot occupy all processes."""
        turn = self._turns.setdefault(sender, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if turn.users == 0:
                self._turns.pop(sender, None)

    def _is_slow(self, sender: Hashable) -> bool:
        return self._slow_until.get(sender, 0.0) > time.monotonic()

    def _mark_slow(self, sender: Hashable) -> None:
        now = time.monotonic()
        self._slow_until = {name: until for name, until in self._slow_until.items() if until > now}
        self._slow_until[sender] = now + _SLOW_SECONDS
