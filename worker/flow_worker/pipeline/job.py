"""The job: one request and how far it has come, and its form as a message in the continuation queue.

A retry or a status poll is a scheduled message, never a sleeping lane. The message carries the proven principal, so
that a continuation needs no second proof; its seal proves that a worker wrote it. It carries the sender's claim only
until an authority has proven the claim.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from flow_contracts import strict_json
from flow_contracts.message import Message, PropertyValue, ReceivedMessage
from flow_contracts.reply_key import read_reply_key
from flow_contracts.request import FlowRequest, ReplyAddress, request_digest
from flow_contracts.result import FlowRun
from flow_worker.access.authorities import DataverseSender
from flow_worker.access.input_hash import input_hash
from flow_worker.access.principal import Principal
from flow_worker.journal import NextStep
from flow_worker.pipeline.seal import SealState, digest_of

CONTRACT = "flow-continuation/1"
CONTENT_TYPE = "application/json"
_UNBOUND = "fw-unbound"
"""The application property of `Job.unbound`. The seal covers it, and workers up to 0.1 would refuse it in the body."""

REPLY_KEY = "fw-reply-key"
"""The application property of a continuation with the request's reply key. Workers of earlier versions ignore it."""
_CONTRACT_OF_ANY_VERSION = re.compile(r"flow-continuation/[0-9]{1,9}")


class InvalidContinuation(Exception):
    """The message is not a continuation that this version can read: another program or version sent it."""

    def __init__(self, problem: str, *, other_version: bool, seal: SealState = SealState.MISSING) -> None:
        """`other_version`: a worker of another version may read the message. `seal`: set by the reader of its queue."""
        super().__init__(problem)
        self.other_version = other_version
        self.seal = seal


class UnprovenContinuation(Exception):
    """The message is a continuation, but its seal does not prove that a worker wrote it."""

    def __init__(self, job: Job, seal: SealState) -> None:
        super().__init__(f"its seal is {seal}, so nothing proves that a worker sent it")
        self.job = job
        self.seal = seal


class Job(BaseModel):
    """One request and how far it has come.

    Unknown fields are ignored at every level. So workers of two versions may share the queue during an upgrade: a later
    version may add optional fields, and an incompatible change raises the number in `CONTRACT`. Workers up to 0.1 read
    strictly. A field that they do not know therefore belongs into an application property.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    origin: str
    """The broker's identity of the message that began the request: queue, sequence number, enqueue time."""
    number: Annotated[int, Field(ge=0)]
    """The number of the step; 0 is the request itself."""
    kind: Literal["call", "poll"] = "call"
    request_queue: str
    flow: str
    """The flow's name; empty for a native Dataverse message to which the settings map no flow."""
    input: strict_json.Json = Field(default=None, repr=False)
    input_hash: str
    """The hash of the input, which a poll does not carry any more."""
    claim: SecretStr | None = None
    """The sender's token; None once `principal` is set."""
    dataverse_sender: DataverseSender | None = None
    """The sender that a native Dataverse message names; None once `principal` is set."""
    on_behalf_of: str | None = None
    principal: Principal | None = None
    unbound: bool = Field(default=False, exclude=True)
    """The flow accepts bound claims only, and the claim that proved the sender does not name this request."""
    message_id: str
    correlation_id: str
    reply_to: str | None = None
    reply_to_session_id: str
    reply_key: SecretStr | None = Field(default=None, exclude=True)
    """The key for the result's MAC. Not in the JSON: a continuation carries it as an application property."""
    traceparent: str | None = None
    accepted: AwareDatetime
    """The time when the broker enqueued the request. The claim must have been valid then."""
    replay_of: str | None = None
    """For a replay: the message ID that the sender gave the request."""
    replayed: AwareDatetime | None = None
    """The time when a person replayed the request. The retry settings count its age from then on."""
    expires_at: AwareDatetime | None = None
    calls: Annotated[int, Field(ge=0)] = 0
    """The number of calls made so far."""
    waits: Annotated[int, Field(ge=0)] = 0
    """The number of postponements of this step. A postponement makes no call, so the journal does not record it."""
    code: str | None = None
    """The code of the reason why the job waits."""
    cause: str | None = None
    """The reason why the job waits, as a clause for a person."""
    fresh_token: bool = False
    """True if the next call needs a token that bypasses the caches."""
    started: AwareDatetime | None = None
    """The time of the first call."""
    status_url: SecretStr | None = None
    poll_failures: Annotated[int, Field(ge=0)] = 0
    """The number of status polls that failed in a row."""
    run: FlowRun | None = None

    @classmethod
    def from_request(cls, request: FlowRequest, message: ReceivedMessage, queue: str) -> Self:
        """Return the first step of a request that was received from `queue`."""
        return cls.model_construct(  # without validation: the request was validated already
            origin=origin_of(message, queue),
            number=0,
            request_queue=queue,
            flow=request.flow,
            input=request.input,
            input_hash=input_hash(request.input),
            claim=request.claim,
            on_behalf_of=request.on_behalf_of,
            message_id=request.message_id,
            correlation_id=request.correlation_id,
            reply_to=request.reply_to,
            reply_to_session_id=request.reply_to_session_id,
            reply_key=request.reply_key,
            traceparent=request.traceparent,
            accepted=message.enqueued_at,
            expires_at=message.expires_at,
        )

    @field_serializer("claim", "status_url", when_used="json")
    def _reveal(self, secret: SecretStr | None) -> str | None:
        """Write the secret into the message in clear text, the only place where it is not masked."""
        return secret.get_secret_value() if secret else None

    def at_step(self, step: NextStep) -> Self:
        """Return the same request at a step that the journal holds."""
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

    def to_step(self, due: datetime) -> NextStep:
        """Return this step as the journal keeps it: everything but the request itself."""
        return NextStep(
            number=self.number,
            kind=self.kind,
            due=due,
            calls=self.calls,
            code=self.code or "",
            cause=self.cause or "",
            status_url=self.status_url.get_secret_value() if self.status_url else None,
            fresh_token=self.fresh_token,
            run=self.run,
            started=self.started,
            failures=self.poll_failures,
            digest=digest_of(self.to_message()),
        )

    @property
    def has_its_input(self) -> bool:
        """Return whether the input is the one that `input_hash`, and so the fingerprint, names."""
        return self.input_hash == input_hash(self.input)

    @property
    def tried_since(self) -> datetime:
        """The time from which the retry settings count the age of the request."""
        return self.replayed or self.accepted

    @property
    def address(self) -> ReplyAddress:
        """The address for the result."""
        return ReplyAddress(
            self.message_id, self.correlation_id, self.reply_to_session_id, self.reply_to, self.reply_key
        )

    @property
    def digest(self) -> str:
        """The digest that a claim may be bound to; see `request_digest`. Only of a call, which carries its input."""
        return request_digest(self.flow, self.input, self.on_behalf_of)

    @property
    def user(self) -> str | None:
        """The object ID of the user for whom the flow runs; None while the sender is not proven."""
        principal = self.principal
        return None if principal is None else principal.on_behalf_of or principal.oid or None

    @property
    def fingerprint(self) -> str:
        """The hash that identifies the request: its principal, its flow and input, and its reply address.

        Two messages with the same message ID but different fingerprints are different requests.
        """
        principal = self.principal
        sender = [principal.authority, principal.tenant, principal.oid, principal.system_user] if principal else []
        call = [self.on_behalf_of, self.flow, self.input_hash]
        reply = [self.correlation_id, self.reply_to_session_id, self.reply_to]
        return _hash(json.dumps([sender, call, reply]))

    def to_message(self, due: datetime | None = None) -> Message:
        """Return the continuation message, to be delivered when it is due. Sending it twice has no further effect."""
        properties: dict[str, PropertyValue] = {"contract": CONTRACT}
        if self.reply_key is not None:
            properties[REPLY_KEY] = self.reply_key.get_secret_value()
        if self.unbound:
            properties[_UNBOUND] = True
        return Message(
            body=self.model_dump_json(exclude_none=True).encode(),
            content_type=CONTENT_TYPE,
            message_id=self.continuation_id,
            correlation_id=self.correlation_id,
            subject=self.flow,
            scheduled_at=due,
            application_properties=properties,
        )

    @property
    def continuation_id(self) -> str:
        """The message ID of this continuation; duplicate detection drops a second message with it.

        The ID derives from the broker's origin, not only from the sender's own IDs. Otherwise a sender could choose IDs
        that make another sender's continuation a duplicate.
        """
        return continuation_id(self.origin, self.message_id, self.number, self.waits)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read a continuation message. Raises `InvalidContinuation`."""
        contract = message.application_properties.get("contract")
        if contract != CONTRACT:
            other_version = isinstance(contract, str) and _CONTRACT_OF_ANY_VERSION.fullmatch(contract) is not None
            found = f"'{contract}'" if other_version else "of another kind"
            problem = f"the application property 'contract' is {found}, and this version reads '{CONTRACT}'"
            raise InvalidContinuation(problem, other_version=other_version)
        try:
            job = cls.model_validate_json(message.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])[:128]
            # Without a field the body is no JSON object, which no version writes under this contract.
            raise InvalidContinuation(f"'{field}': {first['msg']}", other_version=bool(field)) from None
        reply_key = read_reply_key(message.application_properties.get(REPLY_KEY))
        unbound = message.application_properties.get(_UNBOUND) is True
        return job.model_copy(update={"reply_key": reply_key, "unbound": unbound})


def continuation_id(origin: str, message_id: str, number: int, waits: int) -> str:
    """Return the message ID of a continuation; see `Job.continuation_id`."""
    return f"continuation-{_hash(json.dumps([origin, message_id, number, waits]))}"


def origin_of(message: ReceivedMessage, queue: str) -> str:
    """Return the broker's identity of a message in a request queue; see `Job.origin`."""
    return f"{queue}:{message.sequence_number}:{message.enqueued_at.isoformat()}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
