"""Submits requests: a record in the store, a signed statement, and a message that the request queue accepts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from pydantic import JsonValue, ValidationError

from flow_contracts.message import Message
from flow_contracts.request import FlowRequest, request_digest
from flow_contracts.servicebus import MessageTooLarge, ServiceBusFailure
from flow_worker.access.gateway_message_ids import prefix_of
from flow_worker.access.statement import StatementSigner
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway import audit
from flow_worker.gateway.admission import GatewayAdmission
from flow_worker.gateway.callers import Acting, Caller
from flow_worker.gateway.problems import Problem, of_outage
from flow_worker.gateway.spans import Spans
from flow_worker.gateway.store.port import GatewayStore, RequestRecord

_ENVELOPE_BYTES: Final = 4096
"""More than the properties of a message need beside its body."""


_LARGE_BYTES: Final = 32 * 1024
_MAX_UNDER_WAY: Final = 1000
"""Submissions under way. Those whose caller has disconnected go on, and are not among the requests under way."""


class RequestSender(Protocol):
    """Sends to the request queue; `GroupedSender` does."""

    async def send(self, queue: str, message: Message) -> None:
        """Return once the queue has accepted the message, and the request's record survives a power cut.

        Without the record nobody could read the result. Raises `MessageTooLarge`, `ServiceBusFailure` and
        `TemporarilyUnavailable`.
        """
        ...

    def max_message_bytes(self, queue: str) -> int | None:
        """Return the largest message that the queue takes; None while nothing was sent to it."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """A request as its caller sent it."""

    flow: str
    input: JsonValue
    key: str | None
    """The idempotency key."""
    on_behalf_of: str | None
    traceparent: str | None
    bytes: int = 0
    """The size of the body that held the input."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that the queue has accepted, now or before."""

    record: RequestRecord
    is_new: bool


class Submissions:
    """Accepts requests. A request that the queue has not accepted is not accepted."""

    def __init__(
        self,
        store: GatewayStore,
        sender: RequestSender,
        signer: StatementSigner,
        admission: GatewayAdmission,
        *,
        queue: str,
        seconds: float,
        now: Callable[[], datetime],
        spans: Spans,
        on_sent: Callable[[str | None], None],
    ) -> None:
        """`seconds`: the deadline of one submission. `on_sent` learns the error of each send; None if it worked."""
        self._store = store
        self._sender = sender
        self._signer = signer
        self._admission = admission
        self._queue = queue
        self._seconds = seconds
        self._now = now
        self._spans = spans
        self._on_sent = on_sent
        self._under_way: set[asyncio.Task[Accepted]] = set()

    @property
    def count(self) -> int:
        """The number of submissions under way."""
        return len(self._under_way)

    async def submit(self, caller: Caller, acting: Acting, submission: Submission) -> Accepted:
        """Return the accepted request. Raises `Problem`.

        A caller that disconnects does not break the submission off: a cancelled send costs its connection.
        """
        if self.count >= _MAX_UNDER_WAY:
            raise of_outage()
        task = asyncio.create_task(self._submit(caller, acting, submission))
        self._under_way.add(task)
        task.add_done_callback(self._finish)
        return await asyncio.shield(task)

    def _finish(self, task: asyncio.Task[Accepted]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone, and nobody else retrieves it

    async def drain(self) -> None:
        """Return once all submissions under way have ended."""
        while self._under_way:
            await asyncio.wait(list(self._under_way))

    async def _submit(self, caller: Caller, acting: Acting, submission: Submission) -> Accepted:
        try:
            async with asyncio.timeout(self._seconds):
                await self._admission.require(acting.principal, submission.flow, submission.input)
                return await self._accept(caller, acting, submission)
        except (TimeoutError, TemporarilyUnavailable):
            raise of_outage() from None

    async def _accept(self, caller: Caller, acting: Acting, submission: Submission) -> Accepted:
        record = self._record(acting, submission)
        message = await self._message(caller, acting, submission, record)
        existing = await self._store.add(record)
        if existing is not None:
            if (existing.digest, existing.flow) != (record.digest, record.flow):
                detail = "This idempotency key belongs to another request of the caller; send this one under a new key."
                raise Problem("idempotency_key_reused", detail)
            if existing.sent:
                return Accepted(existing, is_new=False)
            # The first attempt ended before the queue accepted it, or before the store knew that. The queue's duplicate
            # detection and the worker's journal drop a copy.
        await self._send(message)
        await self._store.mark_sent(record.id)
        audit.accepted(acting.principal, record.flow, self._message_id(record))
        return Accepted(existing or record, is_new=existing is None)

    def _record(self, acting: Acting, submission: Submission) -> RequestRecord:
        return RequestRecord(
            id=_request_id(acting, submission.key),
            owner=acting.owner,
            asserter=acting.asserter,
            flow=submission.flow,
            digest=_digest(acting, submission),
            created_at=self._now(),
            trace_parent=submission.traceparent,
        )

    async def _message(self, caller: Caller, acting: Acting, submission: Submission, record: RequestRecord) -> Message:
        """Return the message with the statement of this gateway. Raises `Problem` for what no message can carry."""
        try:
            request = FlowRequest(
                flow=submission.flow,
                on_behalf_of=acting.principal.on_behalf_of,
                message_id=self._message_id(record),
                correlation_id=record.id,
                reply_to_session_id=record.id,
                traceparent=submission.traceparent,
            ).with_checked_input(submission.input)
        except ValidationError:
            raise Problem("malformed_request", "The name of the flow is too long or malformed.") from None
        await _rest(submission)
        signed = self._signer.signed(request, caller.proven)
        await _rest(submission)
        message = signed.to_message()
        largest = self._sender.max_message_bytes(self._queue)
        if largest is not None and len(message.body) + _ENVELOPE_BYTES > largest:
            raise _too_large()
        return message

    async def _send(self, message: Message) -> None:
        try:
            async with self._spans.sending(self._queue, message) as traced:
                await self._sender.send(self._queue, traced)
        except MessageTooLarge:
            raise _too_large() from None
        except ServiceBusFailure as error:
            self._on_sent(str(error))
            raise of_outage() from None
        except TimeoutError:
            self._on_sent(f"'{self._queue}' did not accept a message in time")
            raise
        self._on_sent(None)

    def _message_id(self, record: RequestRecord) -> str:
        return prefix_of(self._queue) + record.id


def _digest(acting: Acting, submission: Submission) -> str:
    """Return what distinguishes the requests under one key. Without a key, no second request has the same ID."""
    if submission.key is None:
        return ""
    return request_digest(submission.flow, submission.input, acting.principal.on_behalf_of)


async def _rest(submission: Submission) -> None:
    """Let others run between two passes over a large input, each of which can take 60 ms for 1 MiB of numbers."""
    if submission.bytes > _LARGE_BYTES:
        await asyncio.sleep(0)


def _request_id(acting: Acting, key: str | None) -> str:
    """Return the ID of a request: random, or a hash of the caller and its idempotency key."""
    if key is None:
        return secrets.token_hex(16)
    principal = acting.principal
    name = json.dumps([principal.tenant, principal.oid, principal.on_behalf_of, key])
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def _too_large() -> Problem:
    return Problem("payload_too_large", "The input is larger than the request queue takes; send less.")
