"""Searches a reply session for the result of one request, among results of other requests and forged ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.client.result_check import ResultCheck
from flow_contracts.client.sent_requests import SentRequest
from flow_contracts.message import ReceivedMessage
from flow_contracts.result import FlowResult, InvalidResult
from flow_contracts.servicebus import SessionReceiver

_MAX_FORGED_BYTES = 1 << 16
"""A larger message is not parsed to see if it is forged: parsing could block the event loop for seconds."""


@dataclass(frozen=True, slots=True)
class ResultSearch:
    """The search for one result. Every method may raise `ServiceBusUnavailable`."""

    correlation_id: str
    sent: SentRequest
    check: ResultCheck
    is_copy: Callable[[ReceivedMessage], bool]
    """Returns whether the client has returned the message's result before."""

    async def find(self, session: SessionReceiver) -> ReceivedMessage | None:
        """Peek for the message of the result. Only if there is none, return an unreadable one: it may be the result.

        The reader of an unreadable message gets `InvalidResult`. It must not hide a readable one behind it, because any
        sender may put it there.
        """
        unreadable: list[ReceivedMessage] = []

        def matches(message: ReceivedMessage) -> bool:
            # The check comes before the parser, which is the expensive part: any sender can fill a session.
            if not self._is_addressed(message) or not self.check.accepts(message, self.sent.reply_key):
                return False
            answers = self._answers(message)
            if answers is None and not unreadable:
                unreadable.append(message)
            return bool(answers)

        return await session.find(matches) or next(iter(unreadable), None)

    async def wait(self, session: SessionReceiver) -> ReceivedMessage:
        """Peek until there is a message.

        Receiving and abandoning would find the message sooner, but each round costs one of its deliveries.
        """
        for pause in ExponentialBackoff(0.05, 1.0, growth=1.6).pauses():
            message = await self.find(session)
            if message is not None:
                return message
            await asyncio.sleep(pause)
            await session.keep_locked()
        raise AssertionError("backoff is endless")

    def is_forged(self, message: ReceivedMessage) -> bool:
        """Return whether a message names this very request, but no worker made it for this request."""
        if not self._is_addressed(message) or self.sent.message_id is None:
            return False
        if len(message.body) > _MAX_FORGED_BYTES:
            return False
        return not self.check.accepts(message, self.sent.reply_key) and self._answers(message) is True

    def _is_addressed(self, message: ReceivedMessage) -> bool:
        return message.correlation_id == self.correlation_id and not self.is_copy(message)

    def _answers(self, message: ReceivedMessage) -> bool | None:
        """Return whether the message answers the request; None if it is unreadable."""
        try:
            return self.sent.is_answered_by(FlowResult.from_message(message))
        except InvalidResult:
            return None
