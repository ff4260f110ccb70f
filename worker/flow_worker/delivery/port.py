"""Declares what a sink of results is, with the plain data that passes through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal, Protocol

from pydantic import SecretStr

from flow_contracts.result import FlowResult

DeliveryState = Literal["pending", "ended", "settled"]
"""`pending`: the request is admitted and has no result. `ended`: it has its result. `settled`: a second result has
followed an `unknown` one."""


@dataclass(frozen=True, slots=True)
class Asker:
    """The proven user for whom the flow runs, or the proven app that sent the request."""

    tenant: str | None
    """The Entra tenant's ID; under the authority `dataverse` the organization's ID."""
    oid: str | None
    """The Entra object ID: the one in `on_behalf_of` before the sender's own; None where only the row is known."""
    system_user: str | None = None
    """The sender's row in Dataverse, where Dataverse names no object ID."""


@dataclass(frozen=True, slots=True)
class ReplyTarget:
    """The place where the request's result was published, for a sink that publishes another one."""

    queue: str
    session_id: str
    variant: str = ""
    """See `FlowResult.to_message`: the variant of the first result."""
    reply_key: SecretStr | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One state of one request, for one sink."""

    sink: str
    message_id: str
    correlation_id: str
    flow: str | None
    request_queue: str
    asker: Asker
    accepted: datetime
    """The time when the broker enqueued the request."""
    state: DeliveryState
    result: FlowResult | None = field(default=None, repr=False)
    """The newest result of the request, with its output if the journal still holds it; None while pending."""
    attempts: int = 0
    """The number of attempts at this state that failed before."""
    replay_of: str | None = None
    is_owner: bool = False
    """False while pending, and for a refusal that has no entry in the journal.

    Any proven sender can name any message ID. So a sink may create something for such a delivery, but must not
    overwrite anything.
    """
    reply: ReplyTarget | None = None
    """Only for a sink with `needs_reply_target`."""

    @property
    def request_id(self) -> str:
        """The message ID that the sender gave the request. A replay has another one, and the same `request_id`."""
        return self.replay_of or self.message_id


@dataclass(frozen=True, slots=True)
class Delivered:
    """The sink has the state of the request, or needs nothing more of it."""

    note: str | None = None
    is_new: bool = False
    """The sink had nothing for this `request_id` before. A later refusal of the same request may then change it."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """The sink works, but what it waits for has not happened. This counts as no failure."""

    until: datetime


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The attempt failed, and another one may succeed."""

    code: str
    cause: str
    """A clause for a person, without a URL, token, input or output."""
    not_before: datetime | None = None
    """From `Retry-After`; None leaves the pause to the runner."""
    is_outage: bool = False
    """No delivery to the same target can succeed now: the target is throttled or down. The runner pauses them all."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt can succeed before a person has changed something."""

    code: str
    cause: str
    """What was wrong and what to do, as a clause for a person."""


Attempt = Delivered | Postponed | RetryLater | GiveUp


class Sink(Protocol):
    """A place that learns the states of requests. Subclass it to inherit the defaults.

    The runner may call `deliver` again after any failure, also after a success of which it did not learn, and never
    twice at the same time for one request. So a sink must be idempotent.
    """

    name: str
    """The name in the settings, or of the sink that the worker itself adds."""
    first_delay_seconds: float = 0.0
    """The time from the opening of a delivery to its first attempt."""
    needs_reply_target: ClassVar[bool] = False

    def target_of(self, delivery: Delivery) -> str:
        """Return what the delivery shares with others, such as an organization's URL: an outage pauses all of them."""
        return self.name

    def wants(self, delivery: Delivery) -> bool:
        """Return whether the sink has anything to do for this state. Called before the delivery is opened."""
        ...

    async def deliver(self, delivery: Delivery) -> Attempt:
        """Make one attempt. The runner sets its deadline, and cancels it when the worker stops.

        An exception counts as `RetryLater`.
        """
        ...

    async def close(self) -> None:
        """Release all resources."""
        ...


class Settlements(Protocol):
    """Opens a request's deliveries again once its `unknown` result is settled."""

    async def settled(self, delivery: Delivery, result: FlowResult) -> None:
        """Open the deliveries of the same request to its other sinks with the state `settled`.

        The journal's entry must hold the result already. Repeating this does no harm. Raises `TemporarilyUnavailable`.
        """
        ...
