"""Searches a reply session for the newest result of one request, among results of other requests and forged ones.

A request has several results if a person replayed its dead letter, or if a settling result followed an `unknown` one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.client.result_check import ResultCheck
from flow_contracts.client.sent_requests import SentRequest
from flow_contracts.message import ReceivedMessage
from flow_contracts.reply_key import is_authentic
from flow_contracts.result import FlowResult, InvalidResult, Status
from flow_contracts.servicebus import SessionReceiver

_MAX_FORGED_BYTES = 1 << 16
"""A larger message is not parsed to see if it is forged: parsing could block the event loop for seconds."""


_MAX_BEHIND_RESULT = 5_000
"""Messages behind a result that a search looks at for a newer one. A sender who floods the session must not keep a
reader from a result for ever.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """The message of the newest result, and the number of other results that the search accepts in the session."""

    message: ReceivedMessage
    others: int = 0
    """Without the settled result."""
    settled: ReceivedMessage | None = None
    """The `unknown` result that this one settles, if the session still has it."""


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A result with what decides whether it stands instead of one that arrived before it."""

    message: ReceivedMessage
    result: FlowResult
    is_signed: bool

    def supersedes(self, earlier: _Ranked) -> bool:
        """Return whether this is the newer result of the same request.

        Only a replay and a settling result are newer: otherwise the first one stands, as in the journal. A later one
        refuses another request that reused the message ID, or is forged. A reader that accepts results without a MAC
        must not let one of them hide a signed one.
        """
        if self.is_signed != earlier.is_signed:
            return self.is_signed
        if self.settles(earlier):
            return True
        return self._is_replay and self._request == earlier._request and not earlier.settles(self)

    def settles(self, other: _Ranked) -> bool:
        """Return whether this result settles the other one: both of the same request, and of the same replay."""
        return (
            self.result.settled_by is not None
            and other.result.settled_by is None
            and other.result.status is Status.UNKNOWN
            and self.is_signed == other.is_signed
            and self.result.request_message_id == other.result.request_message_id
            and self.result.replay_of == other.result.replay_of
        )

    @property
    def _request(self) -> str:
        """The message ID of the request, before any replay."""
        return self.result.replay_of or self.result.request_message_id

    @property
    def _is_replay(self) -> bool:
        return self.result.replay_of is not None


@dataclass(frozen=True, slots=True)
class ResultSearch:
    """The search for one result. Every method may raise `ServiceBusUnavailable`."""

    correlation_id: str
    sent: SentRequest
    check: ResultCheck
    is_copy: Callable[[ReceivedMessage], bool]
    """Returns whether the client has returned the message's result before."""

    async def find(self, session: SessionReceiver) -> Found | None:
        """Peek for the newest result. Only if there is none, return an unreadable message: it may be the result.

        The reader of an unreadable message gets `InvalidResult`. It must not hide a readable one, because any sender
        may put it there.
        """
        unknown: list[_Ranked] = []
        newest: _Ranked | None = None
        unreadable: ReceivedMessage | None = None
        seen: set[str | None] = set()
        count = behind = 0
        async for message in session.messages():
            behind += newest is not None
            if behind > _MAX_BEHIND_RESULT:
                break
            # The check comes before the parser, which is the expensive part: any sender can fill a session.
            if not self._is_addressed(message) or not self.check.accepts(message, self.sent.reply_key):
                continue
            result = self._read(message)
            if result is None:
                unreadable = unreadable or message
            elif self.sent.is_answered_by(result) and (message.message_id is None or message.message_id not in seen):
                # A later message with the same ID is a copy, which a worker published once more. It is not newer.
                seen.add(message.message_id)
                ranked = self._ranked(message, result)
                count += 1
                if result.status is Status.UNKNOWN:
                    unknown.append(ranked)
                newest = ranked if newest is None or ranked.supersedes(newest) else newest
        if newest is not None:
            settled = next((each.message for each in unknown if newest.settles(each)), None)
            return Found(newest.message, others=count - 1 - (settled is not None), settled=settled)
        return Found(unreadable) if unreadable is not None else None

    def _ranked(self, message: ReceivedMessage, result: FlowResult) -> _Ranked:
        is_signed = self.sent.reply_key is not None and is_authentic(message, self.sent.reply_key)
        return _Ranked(message, result, is_signed=is_signed)

    async def wait(self, session: SessionReceiver, *, put_off: list[Found] | None = None) -> Found:
        """Peek until there is a result. With `put_off`, put each `unknown` result there, and wait for another one.

        Receiving and abandoning would find the message sooner, but each round costs one of its deliveries.
        """
        for pause in ExponentialBackoff(0.05, 1.0, growth=1.6).pauses():
            found = await self.find(session)
            if found is not None:
                if put_off is None or not self._is_unknown(found.message):
                    return found
                put_off[:] = [found]
            await asyncio.sleep(pause)
            await session.keep_locked()
        raise AssertionError("backoff is endless")

    def _is_unknown(self, message: ReceivedMessage) -> bool:
        result = self._read(message)
        return result is not None and result.status is Status.UNKNOWN

    def is_forged(self, message: ReceivedMessage) -> bool:
        """Return whether a message names this very request, but no worker made it for this request."""
        if not self._is_addressed(message) or self.sent.message_id is None:
            return False
        if len(message.body) > _MAX_FORGED_BYTES:
            return False
        if self.check.accepts(message, self.sent.reply_key):
            return False
        result = self._read(message)
        return result is not None and self.sent.is_answered_by(result)

    def _is_addressed(self, message: ReceivedMessage) -> bool:
        return message.correlation_id == self.correlation_id and not self.is_copy(message)

    def _read(self, message: ReceivedMessage) -> FlowResult | None:
        """Return the result; None if the message is unreadable."""
        try:
            return FlowResult.from_message(message)
        except InvalidResult:
            return None
