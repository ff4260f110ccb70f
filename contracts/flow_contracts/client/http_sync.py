"""The blocking client of the HTTP gateway: it runs the asynchronous one on an event loop in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, Unpack

from pydantic import JsonValue

from flow_contracts.client.http_client import FlowDescription, HttpFlowClient, HttpRequestOptions
from flow_contracts.client.loop_thread import BlockingClient
from flow_contracts.result import FlowResult
from flow_contracts.servicebus.credentials import BlockingCredential, for_asyncio


class HttpFlowClientSync(BlockingClient[HttpFlowClient]):
    """See `HttpFlowClient`: the same methods, blocking. A context manager; several threads may use it."""

    def __init__(
        self, gateway_url: str, credential: BlockingCredential, *, scope: str, patience_seconds: float = 120
    ) -> None:
        """`credential` is a blocking one, for example `azure.identity.DefaultAzureCredential()`."""
        asynchronous = for_asyncio(credential)
        self._start(lambda: HttpFlowClient(gateway_url, asynchronous, scope=scope, patience_seconds=patience_seconds))

    @classmethod
    def from_token(cls, gateway_url: str, token: str | Callable[[], str], *, patience_seconds: float = 120) -> Self:
        """Make a client from a token, or from a function that returns one for each call."""
        client = cls.__new__(cls)
        client._start(lambda: HttpFlowClient.from_token(gateway_url, token, patience_seconds=patience_seconds))
        return client

    def submit(self, flow: str, input: JsonValue = None, **options: Unpack[HttpRequestOptions]) -> str:  # noqa: A002 - the contract's word
        """See `HttpFlowClient.submit`."""
        return self._thread.run(self._client.submit(flow, input, **options))

    def poll(self, correlation_id: str) -> FlowResult | None:
        """See `HttpFlowClient.poll`."""
        return self._thread.run(self._client.poll(correlation_id))

    def wait(self, correlation_id: str, timeout: float) -> FlowResult:
        """See `HttpFlowClient.wait`."""
        return self._thread.run(self._client.wait(correlation_id, timeout))

    def wait_settled(self, correlation_id: str, timeout: float) -> FlowResult:
        """See `HttpFlowClient.wait_settled`."""
        return self._thread.run(self._client.wait_settled(correlation_id, timeout))

    def request(
        self,
        flow: str,
        input: JsonValue = None,  # noqa: A002 - the contract's word
        timeout: float = 60,
        **options: Unpack[HttpRequestOptions],
    ) -> FlowResult:
        """See `HttpFlowClient.request`."""
        return self._thread.run(self._client.request(flow, input, timeout, **options))

    def flows(self) -> list[FlowDescription]:
        """See `HttpFlowClient.flows`."""
        return self._thread.run(self._client.flows())
