"""Reads and deletes messages without a lock: peek, purge, counts and the list of sessions."""

from __future__ import annotations

from itertools import islice

from servicebus_emulator.servicebus.entities.message import BrokeredMessage, MessageState
from servicebus_emulator.servicebus.entities.queue_state import QueueState
from servicebus_emulator.servicebus.entities.sessions import QueueSessions


def peek(state: QueueState, number: int, count: int, session_id: str | None) -> list[BrokeredMessage]:
    """Return up to `count` messages from a sequence number on, in every state, locked ones included."""
    return list(islice(state.messages.from_number(number, session_id), count))


def purge(state: QueueState, count: int, *, before: float, session_id: str | None) -> int:
    """Delete up to `count` unlocked messages that were enqueued before a moment. Return their number."""
    messages = state.messages.from_number(0, session_id)
    old = (message for message in messages if message.enqueued_at < before and message.lock_token is None)
    purged = list(islice(old, count))  # first the list: the store must not change while it is read
    for message in purged:
        state.remove(message)
    return len(purged)


def counts(state: QueueState) -> dict[str, int]:
    """Return the number of messages in each state, by the state's name in lower case."""
    return {message_state.name.lower(): state.messages.count(message_state) for message_state in MessageState}


def session_ids(
    state: QueueState, sessions: QueueSessions, skip: int, top: int, *, state_after: float | None
) -> list[str]:
    """Return a page of session IDs in order: sessions with active messages or with state.

    With `state_after`: only sessions whose state was set after this moment.
    """
    ids = sessions.with_state(state_after)
    if state_after is None:
        messages = state.messages.from_number(0)
        ids |= {message.session_id or "" for message in messages if message.state is MessageState.ACTIVE}
    return sorted(ids)[skip : skip + top]
