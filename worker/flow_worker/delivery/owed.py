"""The outbox's record of one request for one sink, its JSON document, and the transitions between its states.

A record holds no input, claim or output. The runner takes the output from the journal's entry when it delivers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from pydantic import JsonValue, SecretStr, TypeAdapter, ValidationError

from flow_contracts import strict_json
from flow_contracts.result import FlowResult
from flow_worker.delivery.port import Asker, Delivery, DeliveryState, ReplyTarget
from flow_worker.masking import masked

_RANKS: dict[DeliveryState, int] = {"pending": 0, "ended": 1, "settled": 2}
_MAX_MESSAGE_CHARACTERS = 4000
_MAX_CAUSE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Trouble:
    """The last failure of a delivery."""

    code: str
    cause: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StoredReply:
    """`ReplyTarget` as the document holds it."""

    queue: str
    session_id: str
    variant: str = ""
    reply_key: str | None = field(default=None, repr=False)

    def target(self) -> ReplyTarget:
        """Return the target for a sink."""
        key = None if self.reply_key is None else SecretStr(self.reply_key)
        return ReplyTarget(self.queue, self.session_id, self.variant, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """What one sink still has to get of one request."""

    sink: str
    message_id: str
    correlation_id: str
    flow: str | None
    request_queue: str
    asker: Asker
    fingerprint: str
    """That of the job. The journal's entry under the message ID counts only if it has the same one."""
    accepted: datetime
    since: datetime
    """The time when the request was sent or replayed. The latest replay is the one that counts."""
    replay_of: str | None = None
    is_owner: bool = False
    """See `Delivery.is_owner`."""
    state: DeliveryState
    """The newest state that the sink must get."""
    result: FlowResult | None = field(default=None, repr=False)
    """Without its output; for a result that the journal does not hold, or not any more."""
    reply: StoredReply | None = field(default=None, repr=False)
    opened: datetime
    """The time when `state` was opened."""
    expires: datetime
    due: datetime | None
    """The time of the next attempt; None once a person must look at it."""
    is_parked: bool = False
    """The sink has `pending`. At `due` the runner only looks if the journal has the result by now."""
    generation: int = 0
    """Grows with each change of what the sink must get, so that an attempt at the earlier content does not count."""
    attempts: int = 0
    trouble: Trouble | None = None
    is_given_up: bool = False
    is_replayed: bool = False
    """A later replay of the request has had its own deliveries."""
    lease: str | None = None
    lease_until: datetime | None = None
    version: Literal[1] = 1
    """The number of the format. A later version of the worker may add optional fields; another change raises it."""

    @property
    def key(self) -> str:
        """The key in the store: the same for a request and for its replays, and another one for another asker.

        Any proven sender can name any message ID. So the ID alone must not lead to the record of another asker.
        """
        return key_of(self.sink, self.replay_of or self.message_id, self.asker)

    @property
    def next_look(self) -> datetime | None:
        """The time from which a runner may act on the record."""
        if self.due is None or self.lease_until is None:
            return self.due
        return max(self.due, self.lease_until)

    def delivery(self, result: FlowResult | None) -> Delivery:
        """Return the delivery for the sink, with the newest result of the request."""
        reply = None if self.reply is None else self.reply.target()
        return Delivery(
            sink=self.sink,
            message_id=self.message_id,
            correlation_id=self.correlation_id,
            flow=self.flow,
            request_queue=self.request_queue,
            asker=self.asker,
            accepted=self.accepted,
            state=self.state,
            result=result,
            attempts=self.attempts,
            replay_of=self.replay_of,
            is_owner=self.is_owner,
            reply=reply,
        )


def key_of(sink: str, request_id: str, asker: Asker) -> str:
    """Return the key of a record; see `Owed.key`."""
    parts = [sink, request_id, asker.tenant, asker.oid, asker.system_user]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def embedded(result: FlowResult) -> FlowResult:
    """Return the result as a record keeps it: without its output, and with a bounded error text."""
    error = result.error
    if error is not None and len(error.message) > _MAX_MESSAGE_CHARACTERS:
        error = error.model_copy(update={"message": error.message[:_MAX_MESSAGE_CHARACTERS] + "…"})
    return result.model_copy(update={"output": None, "output_encoding": None, "error": error})


# --- the document --------------------------------------------------------------------------------------------------

_records = TypeAdapter(Owed)


class UnreadableRecord(Exception):
    """The document is not a record that this version can read."""


def dump(owed: Owed) -> bytes:
    """Return the record as UTF-8 JSON."""
    return _records.dump_json(owed, exclude_defaults=True)


def load(document: bytes) -> Owed:
    """Return the record of a document, without the fields that a later version added. Raises `UnreadableRecord`."""
    try:
        return _records.validate_json(document, strict=True, context=strict_json.TRUSTED)
    except ValidationError:
        raise UnreadableRecord from None


def as_json_line(owed: Owed) -> dict[str, JsonValue]:
    """Return what a list shows of the record: neither its secret nor its internal fields."""
    result, trouble = owed.result, owed.trouble
    return {
        "sink": owed.sink,
        "state": owed.state,
        "message_id": owed.message_id,
        "correlation_id": owed.correlation_id,
        "replay_of": owed.replay_of,
        "flow": owed.flow,
        "request_queue": owed.request_queue,
        "user": owed.asker.oid or owed.asker.system_user,
        "status": None if result is None else result.status.value,
        "code": None if result is None or result.error is None else result.error.code,
        "is_given_up": owed.is_given_up,
        "is_delivered": owed.is_parked,
        "attempts": owed.attempts,
        "trouble": None if trouble is None else {"code": trouble.code, "cause": masked(trouble.cause)},
        "opened": owed.opened.isoformat(),
        "next_attempt": None if owed.next_look is None else owed.next_look.isoformat(),
        "expires": owed.expires.isoformat(),
    }


# --- transitions ---------------------------------------------------------------------------------------------------


def opened(current: Owed, new: Owed) -> Owed:
    """Return the record after `new` was opened: `current` itself if the sink learns nothing new by it."""
    is_owner = new.is_owner
    if current.message_id != new.message_id:
        is_newer = new.since > current.since
    elif current.fingerprint != new.fingerprint:
        # Two requests of one asker under one ID: the second one is only refused.
        is_newer = new.is_owner and not current.is_owner
    else:
        is_newer = _RANKS[new.state] > _RANKS[current.state]
        is_owner = new.is_owner or current.is_owner
    if not is_newer:
        return current
    # The lease stays: two attempts at one row at the same time could leave the older content in it.
    return replace(
        new,
        is_owner=is_owner,
        generation=current.generation + 1,
        lease=current.lease,
        lease_until=current.lease_until,
    )


def leased(current: Owed, token: str, duration: timedelta, now: datetime, reached: datetime) -> Owed | None:
    """Return the record under a lease; None if it is not due, or another runner holds a lease.

    `reached` is a time that has provably come, by which the lease of another runner is judged.
    """
    is_held = current.lease_until is not None and current.lease_until > reached
    if current.due is None or current.due > now or is_held or current.expires <= now:
        return None
    return replace(current, lease=token, lease_until=now + duration)


def released(current: Owed) -> Owed:
    """Return the record without a lease."""
    return replace(current, lease=None, lease_until=None)


def parked(current: Owed, due: datetime, *, is_new: bool = False, trouble: Trouble | None = None) -> Owed:
    """Return the record of a request whose `pending` the sink has, or will not get any more.

    `is_new`: see `Delivered.is_new`. `due` is the time of the next look into the journal.
    """
    is_owner = current.is_owner or is_new
    return replace(current, is_parked=True, is_owner=is_owner, due=due, attempts=0, trouble=trouble)


def promoted(current: Owed, result: FlowResult, now: datetime) -> Owed:
    """Return a parked record whose result the journal has: another worker could not open its delivery."""
    return replace(
        current,
        state="ended",
        result=embedded(result),
        is_parked=False,
        is_owner=True,
        opened=now,
        due=now,
        attempts=0,
        generation=current.generation + 1,
    )


def failed(current: Owed, trouble: Trouble, due: datetime | None, *, counts: bool = True) -> Owed:
    """Return the record after a failed attempt; without `due` a person must look at it."""
    trouble = replace(trouble, cause=trouble.cause[:_MAX_CAUSE_CHARACTERS])
    return replace(
        current, trouble=trouble, due=due, is_given_up=due is None, attempts=current.attempts + (1 if counts else 0)
    )


def retried(current: Owed, now: datetime, retention: timedelta) -> Owed:
    """Return the record for another attempt at once, as a person asks for it."""
    return replace(
        current,
        due=now,
        is_given_up=False,
        is_parked=False,
        attempts=0,
        opened=now,
        expires=max(current.expires, now + retention),
        generation=current.generation + 1,
    )
