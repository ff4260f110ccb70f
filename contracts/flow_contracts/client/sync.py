"""The blocking clients: each runs the asynchronous client on an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait as wait_for
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from pydantic import JsonValue, SecretStr

from flow_contracts.client.background import Background
from flow_contracts.client.flow_client import FlowClient
from flow_contracts.client.request_builder import RequestOptions
from flow_contracts.result import FlowResult
from flow_contracts.servicebus import Deadlines, Transport
from flow_contracts.servicebus.credentials import BlockingCredential, for_asyncio

_T = TypeVar("_T")


class FlowClientSync:
    """See `FlowClient`: the same methods, blocking. A context manager; several threads may use it."""

    def __init__(
        self,
        fully_qualified_namespace: str,
        credential: BlockingCredential,
        *,
        request_queue: str = "flow-requests",
        reply_queue: str = "flow-replies",
        deadlines: Deadlines | None = None,
        senders: int = 4,
        accept_unsigned_results: bool = False,
        transport: Transport | None = None,
    ) -> None:
        """`credential` is a blocking one, for example `azure.identity.DefaultAzureCredential()`. See `FlowClient`."""
        asynchronous = for_asyncio(credential)
        self._start(
            lambda: FlowClient(
                fully_qualified_namespace,
                asynchronous,
                request_queue=request_queue,
                reply_queue=reply_queue,
                deadlines=deadlines,
                senders=senders,
                accept_unsigned_results=accept_unsigned_results,
                transport=transport,
            )
        )

    @classmethod
    def from_connection_string(
        cls,
        connection_string: str,
        *,
        request_queue: str = "flow-requests",
        reply_queue: str = "flow-replies",
        deadlines: Deadlines | None = None,
        senders: int = 4,
        accept_unsigned_results: bool = False,
        transport: Transport | None = None,
    ) -> Self:
        """Make a client from a connection string, for example the emulator's."""
        client = cls.__new__(cls)
        client._start(
            lambda: FlowClient.from_connection_string(
                connection_string,
                request_queue=request_queue,
                reply_queue=reply_queue,
                deadlines=deadlines,
                senders=senders,
                accept_unsigned_results=accept_unsigned_results,
                transport=transport,
            )
        )
        return client

    def _start(self, make: Callable[[], FlowClient]) -> None:
        self._thread = _LoopThread()
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
        """See `FlowClient.close`."""
        try:
            self._thread.run(self._client.close())
        finally:
            self._thread.stop()

    def submit(self, flow: str, input: JsonValue = None, **options: Unpack[RequestOptions]) -> str:  # noqa: A002 - the contract's word
        """See `FlowClient.submit`."""
        return self._thread.run(self._client.submit(flow, input, **options))

    @property
    def rejected_results(self) -> int:
        """See `FlowClient.rejected_results`."""
        return self._client.rejected_results

    @property
    def other_results(self) -> int:
        """See `FlowClient.other_results`."""
        return self._client.other_results

    @property
    def clock_skew_seconds(self) -> float:
        """See `FlowClient.clock_skew_seconds`."""
        return self._client.clock_skew_seconds

    def poll(
        self, correlation_id: str, *, message_id: str | None = None, reply_key: SecretStr | str | None = None
    ) -> FlowResult | None:
        """See `FlowClient.poll`."""
        return self._thread.run(self._client.poll(correlation_id, message_id=message_id, reply_key=reply_key))

    def wait(
        self,
        correlation_id: str,
        timeout: float,
        *,
        message_id: str | None = None,
        reply_key: SecretStr | str | None = None,
    ) -> FlowResult:
        """See `FlowClient.wait`."""
        return self._thread.run(self._client.wait(correlation_id, timeout, message_id=message_id, reply_key=reply_key))

    def take(
        self,
        correlation_id: str,
        timeout: float = 0,
        *,
        message_id: str | None = None,
        reply_key: SecretStr | str | None = None,
    ) -> FlowResult | None:
        """See `FlowClient.take`."""
        return self._thread.run(self._client.take(correlation_id, timeout, message_id=message_id, reply_key=reply_key))

    def background(self, *, max_unclaimed: int = 10_000) -> BackgroundSync:
        """See `FlowClient.background`."""
        background = self._thread.call(lambda: self._client.background(max_unclaimed=max_unclaimed))
        return BackgroundSync(self._thread, background)


class BackgroundSync:
    """See `Background`: the same methods, blocking. A context manager; several threads may use it."""

    def __init__(self, thread: _LoopThread, background: Background) -> None:
        self._thread = thread
        self._background = background

    def __enter__(self) -> Self:
        self._thread.run(self._background.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.run(self._background.__aexit__(kind, error, trace))

    def submit(self, flow: str, input: JsonValue = None, **options: Unpack[RequestOptions]) -> str:  # noqa: A002 - the contract's word
        """See `Background.submit`."""
        return self._thread.run(self._background.submit(flow, input, **options))

    def wait(self, correlation_id: str, timeout: float) -> FlowResult:
        """See `Background.wait`."""
        return self._thread.run(self._background.wait(correlation_id, timeout))

    def request(
        self,
        flow: str,
        input: JsonValue = None,  # noqa: A002 - the contract's word
        timeout: float = 60,
        **options: Unpack[RequestOptions],
    ) -> FlowResult:
        """See `Background.request`."""
        return self._thread.run(self._background.request(flow, input, timeout, **options))


class _LoopThread:
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
