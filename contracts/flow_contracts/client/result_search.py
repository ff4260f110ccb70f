"""Searches a reply session for the newest result of one request, among results of other requests and forged ones.

A request has several results if a person replayed its dead letter.
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
from flow_contracts.result import FlowResult, InvalidResult
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


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A result with what decides whether it stands instead of one that arrived before it."""

    message: ReceivedMessage
    request: str
    """The message ID of the request, before any replay."""
    is_signed: bool
    is_replay: bool

    def supersedes(self, earlier: _Ranked) -> bool:
        """Return whether this is the newer result of the same request.

        Only a replay makes a newer result: otherwise the first one stands, as in the journal. A later one refuses
        another request that reused the message ID, or is forged. A reader that accepts results without a MAC must not
        let one of them hide a signed one.
        """
        if self.is_signed != earlier.is_signed:
            return self.is_signed
        return self.is_replay and self.request == earlier.request


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
                count += 1
                ranked = self._ranked(message, result)
                newest = ranked if newest is None or ranked.supersedes(newest) else newest
        if newest is not None:
            return Found(newest.message, others=count - 1)
        return Found(unreadable) if unreadable is not None else None

    def _ranked(self, message: ReceivedMessage, result: FlowResult) -> _Ranked:
        is_signed = self.sent.reply_key is not None and is_authentic(message, self.sent.reply_key)
        request = result.replay_of or result.request_message_id
        return _Ranked(message, request, is_signed=is_signed, is_replay=result.replay_of is not None)

    async def wait(self, session: SessionReceiver) -> Found:
        """Peek until there is a result.

        Receiving and abandoning would find the message sooner, but each round costs one of its deliveries.
        """
        for pause in ExponentialBackoff(0.05, 1.0, growth=1.6).pauses():
            found = await self.find(session)
            if found is not None:
                return found
            await asyncio.sleep(pause)
            await session.keep_locked()
        raise AssertionError("backoff is endless")

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
