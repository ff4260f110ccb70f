"""A request that goes on later: what waits in the continuation queue, and when it is due.

A retry or a poll is a scheduled message in a queue that only the worker may send to, never a sleeping lane. It carries
what was proven already (the principal), so it needs no second proof; only what was not proven yet carries its claim on.
"""

from __future__ import annotations

import hashlib
import json
import random
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from flow_contracts import strict_json
from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import FlowRequest, ReplyAddress, request_digest
from flow_contracts.result import FlowRun
from flow_worker.access.authorities import DataverseSender
from flow_worker.access.principal import Principal
from flow_worker.journal import NextStep
from flow_worker.settings import RetrySettings

CONTRACT = "flow-continuation/1"
CONTENT_TYPE = "application/json"
_MAX_DOUBLINGS = 32


class InvalidContinuation(Exception):
    """The message is no continuation that this version can read: it did not come from a worker like this one."""


class Job(BaseModel):
    """One request and how far it has come."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    origin: str
    """The broker's own identity of the message that began it: queue, sequence number, enqueue time."""
    number: Annotated[int, Field(ge=0)]
    """Which step of its request this is; 0 is the request itself."""
    kind: Literal["call", "poll"] = "call"
    request_queue: str
    flow: str
    input: strict_json.Json = Field(default=None, repr=False)
    input_hash: str
    """Of the input, which a poll does not carry any more."""
    claim: SecretStr | None = None
    """Only while `principal` is not known."""
    dataverse_sender: DataverseSender | None = None
    """The sender that a native Dataverse message names. Only while `principal` is not known."""
    on_behalf_of: str | None = None
    principal: Principal | None = None
    message_id: str
    correlation_id: str
    reply_to: str | None = None
    reply_to_session_id: str
    traceparent: str | None = None
    accepted: AwareDatetime
    """When the broker enqueued the request: its claim is judged as of then."""
    replay_of: str | None = None
    """Of a replay: the message ID that its sender gave the request."""
    replayed: AwareDatetime | None = None
    """When a person put it on its way again: it is tried for as long as a new request."""
    expires_at: AwareDatetime | None = None
    calls: Annotated[int, Field(ge=0)] = 0
    """Calls made so far."""
    waits: Annotated[int, Field(ge=0)] = 0
    """How often this step was put off: nothing was called, so nothing was journalled."""
    code: str | None = None
    cause: str | None = None
    """Why it waits."""
    fresh_token: bool = False
    started: AwareDatetime | None = None
    status_url: SecretStr | None = None
    poll_failures: Annotated[int, Field(ge=0)] = 0
    """Polls that failed in a row."""
    run: FlowRun | None = None

    @classmethod
    def of(cls, request: FlowRequest, message: ReceivedMessage, queue: str) -> Self:
        """The request itself, as it was taken from `queue`."""
        return cls.model_construct(  # all of it was checked as the request
            origin=f"{queue}:{message.sequence_number}:{message.enqueued_at.isoformat()}",
            number=0,
            request_queue=queue,
            flow=request.flow,
            input=request.input,
            input_hash=_hash(json.dumps(request.input, sort_keys=True)),
            claim=request.claim,
            on_behalf_of=request.on_behalf_of,
            message_id=request.message_id,
            correlation_id=request.correlation_id,
            reply_to=request.reply_to,
            reply_to_session_id=request.reply_to_session_id,
            traceparent=request.traceparent,
            accepted=message.enqueued_at,
            expires_at=message.expires_at,
        )

    @field_serializer("claim", "status_url", when_used="json")
    def _in_clear(self, secret: SecretStr | None) -> str | None:
        """In the message itself it must be readable; everywhere else it stays masked."""
        return secret.get_secret_value() if secret else None

    def at(self, step: NextStep) -> Self:
        """The same request, at the step that the journal says is next."""
        return self.model_copy(
            update={
                "number": step.number,
                "waits": 0,
                "kind": step.kind,
                "input": None if step.kind == "poll" else self.input,
                "calls": step.calls,
                "code": step.code,
                "cause": step.cause,
                "status_url": SecretStr(step.status_url) if step.status_url else None,
                "fresh_token": step.fresh_token,
                "run": step.run,
                "started": step.started,
                "poll_failures": step.failures,
            }
        )

    @property
    def tried_since(self) -> datetime:
        """Since when it is being tried."""
        return self.replayed or self.accepted

    @property
    def address(self) -> ReplyAddress:
        """Where the result belongs."""
        return ReplyAddress(self.message_id, self.correlation_id, self.reply_to_session_id, self.reply_to)

    @property
    def digest(self) -> str:
        """See `flow_contracts.request.request_digest`. Only of a call, which still has its input."""
        return request_digest(self.flow, self.input, self.on_behalf_of)

    @property
    def user(self) -> str | None:
        """Object ID of the user it is run for, or of whoever asks; None while nobody is proven."""
        principal = self.principal
        return None if principal is None else principal.on_behalf_of or principal.oid or None

    @property
    def fingerprint(self) -> str:
        """What makes two messages the same request: who asks, for what, and where the answer goes."""
        principal = self.principal
        who = [principal.authority, principal.tenant, principal.oid, principal.system_user] if principal else []
        what = [self.on_behalf_of, self.flow, self.input_hash]
        where = [self.correlation_id, self.reply_to_session_id, self.reply_to]
        return _hash(json.dumps([who, what, where]))

    def to_message(self, due: datetime | None = None) -> Message:
        """The message to schedule; scheduling it twice is scheduling it once."""
        return Message(
            body=self.model_dump_json(exclude_none=True).encode(),
            content_type=CONTENT_TYPE,
            message_id=self.continuation_id,
            correlation_id=self.correlation_id,
            subject=self.flow,
            scheduled_at=due,
            application_properties={"contract": CONTRACT},
        )

    @property
    def continuation_id(self) -> str:
        """The one message ID of this continuation, so that duplicate detection drops a second copy of it.

        It follows from what the broker gave the request, not from what its sender wrote: no sender can make another's
        continuation look like a copy.
        """
        return f"continuation-{_hash(json.dumps([self.origin, self.message_id, self.number, self.waits]))}"

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read a continuation. Raises `InvalidContinuation`."""
        if message.application_properties.get("contract") != CONTRACT:
            raise InvalidContinuation(f"the application property 'contract' is not '{CONTRACT}'")
        try:
            return cls.model_validate_json(message.body)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(step) for step in problem["loc"])[:128]
            raise InvalidContinuation(f"'{where}': {problem['msg']}") from None


def retry_pause(retry: RetrySettings, failures: int) -> timedelta:
    """How long to wait after so many failures: exponential with full jitter, so that callers do not come back at once.

    ("Exponential backoff and jitter", AWS Architecture Blog: full jitter makes the fewest calls under contention.)
    """
    longest = min(retry.max_pause_seconds, retry.base_seconds * (1 << min(failures, _MAX_DOUBLINGS)))
    return timedelta(seconds=random.uniform(0, longest))  # noqa: S311 - jitter, not a secret


def poll_pause(retry: RetrySettings, running: timedelta) -> timedelta:
    """How long to wait before looking for a run's outcome again: a tenth of the time it runs already, within bounds."""
    seconds = max(retry.poll_seconds, min(retry.max_pause_seconds, running.total_seconds() / 10))
    return timedelta(seconds=seconds)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
