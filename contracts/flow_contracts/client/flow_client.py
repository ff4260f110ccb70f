"""The client with one reply session per request: any process that knows the correlation ID can read the result."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self, Unpack

from pydantic import JsonValue, SecretStr

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.client.background import Background
from flow_contracts.client.errors import ResultTimeout
from flow_contracts.client.other_results import OtherResults
from flow_contracts.client.request_builder import RequestOptions, build_request
from flow_contracts.client.result_check import ResultCheck
from flow_contracts.client.result_search import Found, ResultSearch
from flow_contracts.client.returned_results import ReturnedResults
from flow_contracts.client.sending import send_until_accepted
from flow_contracts.client.sent_requests import SentRequest, SentRequests
from flow_contracts.client.taking import drop_copies, take_result
from flow_contracts.client.tracing import Receipt, Receiving
from flow_contracts.message import ReceivedMessage
from flow_contracts.queue_name import check_queue_name
from flow_contracts.reply_key import checked_reply_key
from flow_contracts.result import FlowResult
from flow_contracts.servicebus import (
    ClockSkew,
    ConnectionString,
    Deadlines,
    Endpoint,
    Namespace,
    ServiceBus,
    ServiceBusFailure,
    ServiceBusUnavailable,
    SessionInUse,
    SessionReceiver,
    Transport,
)
from flow_contracts.servicebus.credentials import AsyncCredential


class FlowClient:
    """Posts requests to run flows and finds their results. An async context manager; its methods may run concurrently.

    Each request has a secret reply key. The client ignores every message without a valid MAC under it: only a worker
    that got the request can make its result. A client that neither sent the request nor knows its key accepts any
    result. After more than 10,000 requests it accepts only its own and those whose key the caller gives.

    Every method raises `ServiceBusUnavailable` if Service Bus does not answer, and `ServiceBusMisconfigured` if it
    refuses.
    """

    def __init__(
        self,
        fully_qualified_namespace: str,
        credential: AsyncCredential,
        *,
        request_queue: str = "flow-requests",
        reply_queue: str = "flow-replies",
        deadlines: Deadlines | None = None,
        senders: int = 4,
        accept_unsigned_results: bool = False,
        transport: Transport | None = None,
    ) -> None:
        """`credential` needs Azure Service Bus Data Sender on the request queue and Data Receiver on the reply queue.

        The caller closes the credential. The client sends up to `senders` requests at a time, each on its own
        connection.

        `accept_unsigned_results`: accept results without a MAC, while workers of a version without reply keys still
        run. Anybody who guesses the IDs of a request can then forge its result.

        `transport`: `websocket` connects to port 443, by the proxy that `HTTPS_PROXY` names; by default `amqp`, which
        connects to port 5671.

        Raises `ValueError` for a name that is no host name, for one that no queue can have, and for an unknown
        transport. Raises `TypeError` for a blocking credential.
        """
        endpoint = Namespace(fully_qualified_namespace, credential, transport)
        self._set_up(endpoint, request_queue, reply_queue, deadlines, senders, accept_unsigned_results)

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
        """Make a client from a connection string of the namespace, for example the emulator's.

        `transport`: by default what `TransportType` in the connection string says, else `amqp`. Raises `ValueError` for
        a connection string or another value that cannot be used.
        """
        client = cls.__new__(cls)
        endpoint = ConnectionString(connection_string, transport)
        client._set_up(endpoint, request_queue, reply_queue, deadlines, senders, accept_unsigned_results)
        return client

    def _set_up(
        self,
        endpoint: Endpoint,
        request_queue: str,
        reply_queue: str,
        deadlines: Deadlines | None,
        senders: int,
        accept_unsigned: bool,
    ) -> None:
        self._request_queue = check_queue_name(request_queue, "request_queue", "flow-requests")
        self._reply_queue = check_queue_name(reply_queue, "reply_queue", "flow-replies")
        _require_positive(senders, "senders")
        self._deadlines = deadlines or Deadlines()
        self._skew = ClockSkew()
        self._bus = ServiceBus(endpoint, deadlines=self._deadlines, senders_per_queue=senders, evidence=self._skew)
        self._sent = SentRequests()
        self._check = ResultCheck(accept_unsigned=accept_unsigned)
        self._taken = ReturnedResults()
        self._others = OtherResults()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def rejected_results(self) -> int:
        """The number of messages that this client ignored because they have no valid MAC under the reply key."""
        return self._check.rejected

    @property
    def other_results(self) -> int:
        """The number of results beside those that this client returned.

        A request has several results after a person replayed its dead letter; requests may also share a correlation ID.
        `take` returns the others in later calls.
        """
        return self._others.count

    @property
    def clock_skew_seconds(self) -> float:
        """The seconds by which this machine's clock is ahead of Service Bus's, as far as its answers prove.

        Negative if it is behind; 0 if it agrees. The client reads results whatever its clock shows.
        """
        return self._skew.seconds

    async def close(self) -> None:
        """Close every connection. Submitted requests still run."""
        await self._bus.close()

    async def submit(self, flow: str, input: JsonValue = None, **options: Unpack[RequestOptions]) -> str:  # noqa: A002 - the contract's word
        """Post a request; return its correlation ID once the broker accepted it. `RequestOptions` lists the options.

        Raises `InvalidRequest` and `MessageTooLarge`.
        """
        request = build_request(flow, input, options, reply_to=self._reply_queue, key_for=self._sent.key_for)
        self._sent.remember(request)
        self._taken.expect_again(request)
        await send_until_accepted(self._bus, self._request_queue, request.to_message(), self._deadlines.send_seconds)
        return request.correlation_id

    async def poll(
        self, correlation_id: str, *, message_id: str | None = None, reply_key: SecretStr | str | None = None
    ) -> FlowResult | None:
        """Return the newest result, or None if the queue has none yet; the message stays in the queue.

        A request has several results if a person replayed it; see `other_results`. A settling result stands instead of
        the `unknown` result that it settles.

        A poll takes about a second, because it opens the session and closes it. `message_id` and `reply_key` are those
        of the request; by default those that this client sent. `poll` ignores forged results and those of other
        requests in the session. A client that knows neither accepts any result with the correlation ID, unless it
        sent more than 10,000 requests: then it may have forgotten this one, and ignores results of other clients.

        Raises `InvalidResult`, and `SessionInUse` while another reader holds the session. Raises `UnsupportedResult`
        for a result of a later version, which stays in the queue.
        """
        search = self._search(correlation_id, self._sent_request(correlation_id, message_id, reply_key))
        receiving = Receiving("peek", self._reply_queue)
        async with self._session(correlation_id) as session:
            found = await search.find(session)
        return self._read(correlation_id, found, receiving) if found else None

    async def wait(
        self,
        correlation_id: str,
        timeout: float,
        *,
        message_id: str | None = None,
        reply_key: SecretStr | str | None = None,
    ) -> FlowResult:
        """Return the newest result as soon as there is one; the message stays in the queue. See `poll`.

        The client holds the session meanwhile, and opens it again after a lost connection.

        Raises `ResultTimeout` after `timeout` seconds, `SessionInUse`, `InvalidResult`.
        """
        return await self._wait(correlation_id, timeout, message_id, reply_key, settled=False)

    async def wait_settled(
        self,
        correlation_id: str,
        timeout: float,
        *,
        message_id: str | None = None,
        reply_key: SecretStr | str | None = None,
    ) -> FlowResult:
        """Wait until the newest result is another than `unknown`. See `wait`.

        After `timeout` seconds return the `unknown` result, if there is one. The worker settles a result only if
        `run_records` is configured for the flow, minutes after the `unknown` result.
        """
        return await self._wait(correlation_id, timeout, message_id, reply_key, settled=True)

    async def _wait(
        self,
        correlation_id: str,
        timeout: float,
        message_id: str | None,
        reply_key: SecretStr | str | None,
        *,
        settled: bool,
    ) -> FlowResult:
        failure: ServiceBusFailure | None = None
        rejected = self._check.rejected
        search = self._search(correlation_id, self._sent_request(correlation_id, message_id, reply_key))
        receiving = Receiving("peek", self._reply_queue)
        unknown: list[Found] = []
        try:
            async with asyncio.timeout(timeout):
                for pause in ExponentialBackoff(0.2, 3.0, growth=1.6).pauses():
                    try:
                        async with self._session(correlation_id) as session:
                            found = await search.wait(session, put_off=unknown if settled else None)
                        return self._read(correlation_id, found, receiving)
                    except SessionInUse as error:
                        # After a failure this client itself holds the session: the broker has not noticed the broken
                        # connection yet, and keeps the old lock until it expires.
                        if failure is None:
                            raise
                        failure = error
                    except ServiceBusUnavailable as error:
                        failure = error
                    await asyncio.sleep(pause)
        except TimeoutError:
            if unknown:
                return self._read(correlation_id, unknown[-1], receiving)
            rejected = self._check.rejected - rejected
            raise ResultTimeout(
                correlation_id, timeout, failure, rejected=rejected, skew=self._skew.sentence
            ) from failure
        raise AssertionError("backoff is endless")

    async def take(
        self,
        correlation_id: str,
        timeout: float = 0,
        *,
        message_id: str | None = None,
        reply_key: SecretStr | str | None = None,
    ) -> FlowResult | None:
        """Return the newest result and delete its message; None if none comes within `timeout` seconds. See `poll`.

        The next call returns the next older result.

        Of several messages with the same result the client returns one, and deletes the others. It also deletes those
        that come after this call, as soon as `take` reads the session again. With a settling result it deletes the
        `unknown` result that this one settles.

        Raises `SessionInUse`. Dead-letters a message that is not a result, and raises `InvalidResult`. Leaves a result
        of a later version in the queue, and raises `UnsupportedResult`.
        """
        sent = self._sent_request(correlation_id, message_id, reply_key)
        search = self._search(correlation_id, sent)
        receiving = Receiving("receive", self._reply_queue)
        async with self._session(correlation_id) as session:
            found = await search.find(session)
            if found is None and timeout > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        found = await search.wait(session)
            result = None
            if found is not None:
                message = self._newest(correlation_id, found)
                with receiving.found(Receipt.of(message)):
                    result = await take_result(session, message, search.is_forged)
                self._taken.add(message.message_id)
                if found.settled is not None:
                    self._taken.add(found.settled.message_id)
            # A result that was deleted must reach the caller, whatever happens to its copies.
            with contextlib.suppress(ServiceBusFailure):
                await drop_copies(session, self._is_copy)
            return result

    def _read(self, correlation_id: str, found: Found, receiving: Receiving) -> FlowResult:
        message = self._newest(correlation_id, found)
        with receiving.found(Receipt.of(message)):
            return FlowResult.from_message(message)

    def _newest(self, correlation_id: str, found: Found) -> ReceivedMessage:
        self._others.report(correlation_id, found.message.message_id, found.others)
        return found.message

    def _is_copy(self, message: ReceivedMessage) -> bool:
        return message.message_id in self._taken

    def background(self, *, max_unclaimed: int = 10_000) -> Background:
        """Make a client for many requests at a time, with one session for all their results. See `Background`.

        It keeps up to `max_unclaimed` results for which no caller waited yet, and drops the oldest of more.
        Raises `ValueError` for a number below 1.
        """
        _require_positive(max_unclaimed, "max_unclaimed")
        return Background(
            self._bus,
            self._request_queue,
            self._reply_queue,
            send_seconds=self._deadlines.send_seconds,
            max_unclaimed=max_unclaimed,
            check=self._check,
            sent=self._sent,
            others=self._others,
        )

    def _sent_request(
        self, correlation_id: str, message_id: str | None, reply_key: SecretStr | str | None
    ) -> SentRequest:
        """Return the request whose result the caller wants. Raises `ValueError` for a malformed key."""
        return self._sent.find(correlation_id, message_id, None if reply_key is None else checked_reply_key(reply_key))

    def _search(self, correlation_id: str, sent: SentRequest) -> ResultSearch:
        return ResultSearch(correlation_id, sent, self._check, self._is_copy)

    @contextlib.asynccontextmanager
    async def _session(self, correlation_id: str) -> AsyncIterator[SessionReceiver]:
        try:
            async with self._bus.session_receiver(self._reply_queue, correlation_id) as session:
                yield session
        except SessionInUse as error:
            raise SessionInUse(f"correlation ID '{correlation_id}': {error}") from error


def _require_positive(count: int, parameter: str) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{parameter} must be a whole number of at least 1")
