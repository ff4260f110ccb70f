"""The event loop in a thread on which a blocking client runs the asynchronous one, and how it begins and ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait as wait_for
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

_T = TypeVar("_T")


class Closeable(Protocol):
    """An asynchronous client."""

    async def close(self) -> None:
        """Close the connections."""


_C = TypeVar("_C", bound=Closeable)


class LoopThread:
    """A thread that runs an event loop."""

    def __init__(self) -> None:
        # The caller needs `_loop` and `_stopping`, which only the thread can create.
        started = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(started,), name="flow-client", daemon=True)
        self._thread.start()
        started.wait()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:  # Any: asyncio's own protocol
        """Run a coroutine in the thread and return its result. An interrupt of the caller cancels the coroutine."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not wait_for([future], timeout=0.5).done:
                pass  # short waits: on Windows, Ctrl-C does not interrupt an endless wait
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function in the thread, so that the asyncio objects that it creates belong to the thread's loop."""

        async def call() -> _T:
            return function()

        return self.run(call())

    def stop(self) -> None:
        """End the loop and the thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _main(self, started: threading.Event) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._stopping = asyncio.Event()
            started.set()
            await self._stopping.wait()

        asyncio.run(serve())


class BlockingClient(Generic[_C]):
    """The start and the end of a blocking client. A context manager."""

    _thread: LoopThread
    _client: _C

    def _start(self, make: Callable[[], _C]) -> None:
        self._thread = LoopThread()
        try:
            self._client = self._thread.call(make)
        except BaseException:
            self._thread.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the asynchronous client, and end its thread."""
        try:
            self._thread.run(self._client.close())
        finally:
            self._thread.stop()
