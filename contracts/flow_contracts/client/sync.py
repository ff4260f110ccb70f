"""The blocking clients: each runs the asynchronous client on an event loop in a thread."""

from __future__ import annotations

from types import TracebackType
from typing import Self, Unpack

from pydantic import JsonValue, SecretStr

from flow_contracts.client.background import Background
from flow_contracts.client.flow_client import FlowClient
from flow_contracts.client.loop_thread import BlockingClient, LoopThread
from flow_contracts.client.request_builder import RequestOptions
from flow_contracts.result import FlowResult
from flow_contracts.servicebus import Deadlines, Transport
from flow_contracts.servicebus.credentials import BlockingCredential, for_asyncio


class FlowClientSync(BlockingClient[FlowClient]):
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

    def wait_settled(
        self,
        correlation_id: str,
        timeout: float,
        *,
        message_id: str | None = None,
        reply_key: SecretStr | str | None = None,
    ) -> FlowResult:
        """See `FlowClient.wait_settled`."""
        return self._thread.run(
            self._client.wait_settled(correlation_id, timeout, message_id=message_id, reply_key=reply_key)
        )

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

    def __init__(self, thread: LoopThread, background: Background) -> None:
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

    def wait_settled(self, correlation_id: str, timeout: float) -> FlowResult:
        """See `Background.wait_settled`."""
        return self._thread.run(self._background.wait_settled(correlation_id, timeout))

    def request(
        self,
        flow: str,
        input: JsonValue = None,  # noqa: A002 - the contract's word
        timeout: float = 60,
        **options: Unpack[RequestOptions],
    ) -> FlowResult:
        """See `Background.request`."""
        return self._thread.run(self._background.request(flow, input, timeout, **options))
