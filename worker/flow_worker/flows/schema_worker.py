"""The worker's side of one process that applies schemas to inputs; see `schema_process`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from typing import Any, Self

from pydantic import JsonValue

from flow_worker.settings import InputCheckSettings

_ENVIRONMENT = frozenset(
    {"PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP"}
)
"""The only variables that the process gets. Others hold secrets of the worker."""

_END_SECONDS = 5.0
"""Only the operating system delays a process that was killed."""


class LimitExceeded(Exception):
    """The check took longer, or needed more memory, than the settings allow. The process has ended."""


class ProcessEnded(Exception):
    """The process did not start, or it ended during a check."""


class SchemaWorker:
    """A process that checks one input at a time."""

    def __init__(self, process: Process, deadline_seconds: float) -> None:
        self._process = process
        self._deadline = deadline_seconds

    @classmethod
    async def start(cls, schemas: Mapping[str, Any], settings: InputCheckSettings) -> Self:
        """Start a process for these schemas. Raises `ProcessEnded`."""
        command = (sys.executable, "-P", "-m", "flow_worker.flows.schema_process")
        environment = {name: value for name, value in os.environ.items() if name.upper() in _ENVIRONMENT}
        first = {
            "schemas": schemas,
            "deadline_seconds": settings.deadline_seconds,
            "max_memory_bytes": settings.max_memory_bytes,
        }
        try:
            # stderr: a traceback could quote the input.
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment
            )
        except OSError as error:
            raise ProcessEnded(f"cannot start: {error.strerror}") from None
        worker = cls(process, settings.start_seconds)
        try:
            await worker._ask(first)
        except LimitExceeded:
            raise ProcessEnded(f"did not start within {settings.start_seconds:g} s") from None
        worker._deadline = settings.deadline_seconds
        return worker

    async def fault(self, flow: str, value: JsonValue) -> str | None:
        """Return the first fault of an input; None if it is valid. Raises `LimitExceeded`, `ProcessEnded`."""
        answer = await self._ask({"flow": flow, "input": value})
        if answer.get("exceeded"):
            await self.end()
            raise LimitExceeded("memory")
        fault = answer.get("fault")
        return fault if isinstance(fault, str) else None

    async def end(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is not None:
            stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await self._process.wait()
                if stdout is not None:
                    await stdout.read()  # until its end, so that the pipe is closed

    async def _ask(self, question: Mapping[str, object]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._deadline):
                answer = await self._exchange(json.dumps(question).encode() + b"\n")
        except TimeoutError:
            await self.end()
            raise LimitExceeded("time") from None
        except BaseException:
            # Also if the lane is interrupted: the process may be in a check that never ends.
            await self.end()
            raise
        return answer

    async def _exchange(self, line: bytes) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ValueError("the process has no pipes")
        try:
            stdin.write(line)
            await stdin.drain()
            answer = await stdout.readline()
        except (OSError, ValueError) as error:
            raise ProcessEnded(f"ended: {type(error).__name__}") from None
        if not answer.endswith(b"\n"):
            raise ProcessEnded("ended")
        document: dict[str, Any] = json.loads(answer)
        return document
