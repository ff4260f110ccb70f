"""The client of the HTTP gateway: it needs an access token, and no right on Service Bus."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypedDict, Unpack
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, JsonValue

from flow_contracts import strict_json
from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.client.errors import GatewayUnavailable, ResultTimeout
from flow_contracts.client.http_calls import Answer, CredentialTokens, GatewayCalls, GivenTokens, Tokens
from flow_contracts.client.tracing import current_traceparent
from flow_contracts.message import Message
from flow_contracts.request import InvalidRequest
from flow_contracts.result import CONTRACT, FlowResult, Status
from flow_contracts.servicebus.credentials import AsyncCredential, require_asynchronous

_POLL_SECONDS = 25
"""The wait of one poll: below the limits of proxies on a silent request."""
_PAUSE_SECONDS = 1.0
_BACKOFF = ExponentialBackoff(0.5, 10.0, jitter_from=1.0, jitter_to=1.2)
_HTTP_OK = 200
_FIRST_PRINTABLE, _LAST_PRINTABLE = " ", "~"


class HttpRequestOptions(TypedDict, total=False):
    """The optional arguments of `submit`."""

    message_id: str | None
    """The idempotency key, printable ASCII; by default a random UUID. The same key and input is the same request."""
    on_behalf_of: str | None
    """The object ID of the user for whom a trusted sender sends the request."""
    traceparent: str | None
    """The W3C trace context that the worker continues; by default that of the current OpenTelemetry span."""


class FlowDescription(BaseModel):
    """A flow that the caller may start."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    title: str | None = None
    description: str | None = None
    input_schema: JsonValue = None


class HttpFlowClient:
    """Starts flows through the HTTP gateway. An async context manager; its methods may run concurrently.

    It has the methods of `FlowClient` that need no right on Service Bus. A result stays readable after it was read,
    for as long as the gateway keeps it; so there is no `take`.

    While the gateway is unavailable, each method repeats its call under the same idempotency key, by the gateway's
    `Retry-After`. After `patience_seconds` of pauses it raises `GatewayUnavailable`. It raises `GatewayRefused` for an
    answer that repeating cannot change.
    """

    def __init__(
        self, gateway_url: str, credential: AsyncCredential, *, scope: str, patience_seconds: float = 120
    ) -> None:
        """`scope` is that of the worker's API, for example `api://flow-worker/.default`.

        The caller closes the credential. Raises `ValueError` for a URL that is none of HTTP, `TypeError` for a blocking
        credential, and `InvalidProxy` if the environment names a proxy that cannot be used.
        """
        require_asynchronous(credential)
        self._set_up(gateway_url, CredentialTokens(credential, scope), patience_seconds)

    @classmethod
    def from_token(
        cls, gateway_url: str, token: str | Callable[[], str | Awaitable[str]], *, patience_seconds: float = 120
    ) -> Self:
        """Make a client from a token, or from a function that returns one for each call."""
        client = cls.__new__(cls)
        client._set_up(gateway_url, GivenTokens(token), patience_seconds)
        return client

    def _set_up(self, gateway_url: str, tokens: Tokens, patience_seconds: float) -> None:
        self._calls = GatewayCalls(gateway_url, tokens)
        self._patience = patience_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Submitted requests still run."""
        await self._calls.close()

    async def submit(self, flow: str, input: JsonValue = None, **options: Unpack[HttpRequestOptions]) -> str:  # noqa: A002 - the contract's word
        """Start a flow; return the request's ID once the gateway accepted it. It is also its correlation ID.

        Raises `InvalidRequest` for an input that is no JSON, and for a message ID or user that no header can hold.
        """
        answer = await self._calls.call(
            "POST",
            f"flows/{quote(flow, safe='')}/requests",
            body=_body(input),
            headers=_headers(options),
            patience=self._patience,
        )
        document = _document(answer)
        request_id = document.get("id") or document.get("correlation_id")
        if not isinstance(request_id, str):
            raise GatewayUnavailable("the gateway's answer has no request ID", code="invalid_answer")
        return request_id

    async def poll(self, correlation_id: str) -> FlowResult | None:
        """Return the result, or None if there is none yet.

        Raises `GatewayRefused`, with the status 404 if the caller has no such request, and 410 if its result is gone.
        Raises `InvalidResult`.
        """
        return _result(await self._calls.call("GET", _path(correlation_id), patience=self._patience))

    async def wait(self, correlation_id: str, timeout: float) -> FlowResult:
        """Return the result as soon as there is one. See `poll`. Raises `ResultTimeout` after `timeout` seconds."""
        return await self._wait(correlation_id, timeout, settled=False)

    async def wait_settled(self, correlation_id: str, timeout: float) -> FlowResult:
        """Wait until the result is another than `unknown`; see `wait` and `FlowClient.wait_settled`.

        After `timeout` seconds return the `unknown` result, if there is one.
        """
        return await self._wait(correlation_id, timeout, settled=True)

    async def _wait(self, correlation_id: str, timeout: float, *, settled: bool) -> FlowResult:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        failure: GatewayUnavailable | None = None
        failures = 0
        unknown: FlowResult | None = None
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    began = loop.time()
                    seconds = int(min(_POLL_SECONDS, max(0, deadline - began)))
                    try:
                        answer = await self._calls.call(
                            "GET", _path(correlation_id), wait=seconds, settled=settled, patience=0
                        )
                    except GatewayUnavailable as error:
                        failure = error
                        await asyncio.sleep(
                            _BACKOFF.seconds(failures) if error.retry_after is None else error.retry_after
                        )
                        failures += 1
                        continue
                    failure, failures = None, 0
                    result = _result(answer)
                    if result is not None and not (settled and result.status is Status.UNKNOWN):
                        return result
                    unknown = result
                    pause = _PAUSE_SECONDS if answer.retry_after is None else answer.retry_after
                    await asyncio.sleep(max(0, began + pause - loop.time()))
        except TimeoutError:
            if unknown is not None:
                return unknown
            raise ResultTimeout(correlation_id, timeout, failure) from failure

    async def request(
        self,
        flow: str,
        input: JsonValue = None,  # noqa: A002 - the contract's word
        timeout: float = 60,
        **options: Unpack[HttpRequestOptions],
    ) -> FlowResult:
        """Start a flow and wait for its result, up to `timeout` seconds after the gateway accepted it."""
        return await self.wait(await self.submit(flow, input, **options), timeout)

    async def flows(self) -> list[FlowDescription]:
        """Return the flows that the caller may start."""
        listed = _document(await self._calls.call("GET", "flows", patience=self._patience)).get("flows")
        return [FlowDescription.model_validate(flow) for flow in listed] if isinstance(listed, list) else []


def _path(correlation_id: str) -> str:
    return f"requests/{quote(correlation_id, safe='')}"


def _body(value: JsonValue) -> bytes:
    try:
        return strict_json.dump(value)
    except strict_json.NotJson as error:
        raise InvalidRequest("malformed_request", f"the input {error}") from None


def _headers(options: HttpRequestOptions) -> dict[str, str]:
    key = options.get("message_id") or str(uuid.uuid4())
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')  # RFC 9651, section 4.1.6
    named = {
        "Content-Type": "application/json",
        "Idempotency-Key": f'"{escaped}"',
        "On-Behalf-Of": options.get("on_behalf_of"),
        "traceparent": options.get("traceparent") or current_traceparent(),
    }
    headers = {name: value for name, value in named.items() if value is not None}
    for name, value in headers.items():
        if not all(_FIRST_PRINTABLE <= character <= _LAST_PRINTABLE for character in value):
            raise InvalidRequest("malformed_request", f"the header {name} must be printable ASCII")
    return headers


def _document(answer: Answer) -> dict[str, JsonValue]:
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise GatewayUnavailable("the gateway's answer is not JSON; check gateway_url", code="invalid_answer")
    return document


def _result(answer: Answer) -> FlowResult | None:
    if answer.status != _HTTP_OK:
        return None
    return FlowResult.from_message(Message(body=answer.body, application_properties={"contract": CONTRACT}))
