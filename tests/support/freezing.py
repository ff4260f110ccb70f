"""Stops a worker between two steps of a request's journey, as SIGSTOP does, while another worker goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

When = Literal["before", "after"]


@dataclass
class Freeze:
    """The point at which the ports of one worker block until `thaw`."""

    method: str
    when: When
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _thawed: asyncio.Event = field(default_factory=asyncio.Event)

    def thaw(self) -> None:
        """Let the worker go on."""
        self._thawed.set()

    def around(self, port: object) -> Any:
        """Return the port, whose method blocks at the point."""
        return _FreezingPort(port, self)

    async def block(self, method: str, when: When) -> None:
        """Block if this is the point, and the first arrival there."""
        if (method, when) == (self.method, self.when) and not self._thawed.is_set():
            self.reached.set()
            await self._thawed.wait()


class _FreezingPort:
    """Passes each call on to a port, and blocks before or after one of its methods."""

    def __init__(self, port: object, freeze: Freeze) -> None:
        self._port = port
        self._freeze = freeze

    def __getattr__(self, method: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(self._port, method)

        async def call(*arguments: Any, **options: Any) -> Any:
            await self._freeze.block(method, "before")
            answer = await original(*arguments, **options)
            await self._freeze.block(method, "after")
            return answer

        return call
