"""Hands each result to the caller that waits for it, by correlation ID."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from flow_contracts.client.errors import NotOutstanding, ResultTimeout
from flow_contracts.client.other_results import OtherResults
from flow_contracts.client.returned_results import ReturnedResults
from flow_contracts.client.sent_requests import SentRequest
from flow_contracts.client.tracing import Receipt
from flow_contracts.request import FlowRequest
from flow_contracts.result import FlowResult, InvalidResult, Status
from flow_contracts.servicebus import ServiceBusFailure

Arrival = tuple[FlowResult, Receipt | None]
"""A result, and the receipt of its message."""

_MAX_REMEMBERED = 10_000
"""Correlation IDs that the mailbox remembers after a caller got the result, so that it recognises a redelivery."""


class Mailbox:
    """One future for each outstanding request. Keeps at most `max_unclaimed` results for which no caller waited yet.

    A request gets a second result if a person replays its dead letter, or if a settling result follows an `unknown`
    one. The newest one that no caller got is returned.
    """

    def __init__(self, max_unclaimed: int, others: OtherResults | None = None) -> None:
        self._max_unclaimed = max_unclaimed
        self._outstanding: dict[str, asyncio.Future[Arrival]] = {}
        self._sent: dict[str, SentRequest] = {}
        self._unclaimed: OrderedDict[str, None] = OrderedDict()
        self._returned: OrderedDict[str, SentRequest] = OrderedDict()
        self._accepted = ReturnedResults()
        self._newer: OrderedDict[str, Arrival] = OrderedDict()
        """Results that came after the first one of their requests."""
        self._others = others or OtherResults()
        self._news: asyncio.Future[None] | None = None
        """Ends when a further result comes, if a caller waits for one."""

    def expect(self, request: FlowRequest) -> None:
        """Expect the result of a request. Raises `ValueError` if the correlation ID has an outstanding request."""
        correlation_id = request.correlation_id
        if correlation_id in self._outstanding:
            raise ValueError(f"a request with correlation ID '{correlation_id}' is outstanding already")
        self._accepted.expect_again(request)
        self._returned.pop(correlation_id, None)
        self._newer.pop(correlation_id, None)
        self._outstanding[correlation_id] = asyncio.get_running_loop().create_future()
        self._sent[correlation_id] = SentRequest(request.message_id, request.reply_key)

    def sent(self, correlation_id: str | None) -> SentRequest | None:
        """Return the request under that correlation ID; None if this client has none, or has forgotten it."""
        if correlation_id is None:
            return None
        return self._sent.get(correlation_id) or self._returned.get(correlation_id)

    def forget(self, correlation_id: str) -> None:
        """Stop expecting a result, because no queue accepted its request."""
        self._outstanding.pop(correlation_id, None)
        self._sent.pop(correlation_id, None)

    def is_copy(self, result_id: str | None) -> bool:
        """Return whether the message with this ID is a copy of a result that `put` accepted."""
        return result_id in self._accepted

    def put(self, result: FlowResult, result_id: str | None, receipt: Receipt | None = None) -> bool:
        """Deliver a result to its caller. `result_id` is the message ID of the result, which identifies it.

        Return False if this client did not send its request; True also for a redelivery or a copy, which changes
        nothing.
        """
        if self.is_copy(result_id):
            return True
        correlation_id = result.correlation_id
        arrival = self._outstanding.get(correlation_id)
        if arrival is None:
            returned = self._returned.get(correlation_id)
            if returned is None or not returned.is_answered_by(result):
                return False
            self._keep_newer(result, result_id, receipt)
            return True
        if not self._sent[correlation_id].is_answered_by(result):
            return False
        if not arrival.done():
            arrival.set_result((result, receipt))
            self._accepted.add(result_id)
            self._keep_unclaimed(correlation_id)
        else:
            self._keep_newer(result, result_id, receipt)
        return True

    def fail(self, correlation_id: str, error: Exception) -> None:
        """Raise an error in the call that waits for a result, if one is outstanding."""
        arrival = self._outstanding.get(correlation_id)
        if arrival is not None and not arrival.done():
            arrival.set_exception(error)
            arrival.exception()  # marks it as retrieved, or asyncio logs an error for a result without a waiter
            self._keep_unclaimed(correlation_id)

    async def get(self, correlation_id: str, timeout: float) -> FlowResult:
        """Wait for the newest result. See `receive`."""
        result, _ = await self.receive(correlation_id, timeout)
        return result

    async def receive(self, correlation_id: str, timeout: float) -> Arrival:
        """Wait for the newest result; return it with the receipt of its message. Only one call gets each result.

        Raises `NotOutstanding`, and `ResultTimeout` after `timeout` seconds; then the caller may wait again. Raises the
        error of `fail`.
        """
        if (newer := self._newer.pop(correlation_id, None)) is not None:
            self._finish(correlation_id)
            return newer
        arrival = self._outstanding.get(correlation_id)
        if arrival is None:
            raise NotOutstanding(
                f"no result is outstanding under correlation ID '{correlation_id}': the request was not submitted "
                f"here, its result was returned before, or more than {self._max_unclaimed} results were unclaimed "
                "and this one was dropped"
            )
        try:
            async with asyncio.timeout(timeout):
                received = await asyncio.shield(
                    arrival
                )  # the timeout must not cancel the future: a later wait needs it
        except TimeoutError:
            raise ResultTimeout(correlation_id, timeout) from None
        except InvalidResult:
            self._finish(correlation_id)
            raise
        self._finish(correlation_id)
        return received

    async def receive_settled(self, correlation_id: str, timeout: float) -> Arrival:
        """Wait until the newest result is another than `unknown`; after `timeout` return the unknown one.

        A caller that got an `unknown` result before waits here for the next one. Raises what `receive` raises.
        """
        unknown: Arrival | None = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if correlation_id in self._returned and correlation_id not in self._newer:
                        await self._further_result()
                        continue
                    arrival = await self.receive(correlation_id, timeout)
                    if arrival[0].status is not Status.UNKNOWN:
                        return arrival
                    unknown = arrival
        except (TimeoutError, NotOutstanding) as error:
            if unknown is not None:
                return unknown
            if isinstance(error, NotOutstanding):
                raise
            raise ResultTimeout(correlation_id, timeout) from None

    async def _further_result(self) -> None:
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)

    def close(self) -> None:
        """End every wait with `ServiceBusFailure`."""
        for correlation_id, arrival in self._outstanding.items():
            if not arrival.done():
                failure = f"closed before a result came for correlation ID '{correlation_id}'"
                arrival.set_exception(ServiceBusFailure(failure))
                arrival.exception()  # marks it as retrieved, or asyncio logs an error for a result without a waiter
        if self._news is not None:
            self._news.set_exception(ServiceBusFailure("closed before a further result came"))
            self._news.exception()
            self._news = None
        self._outstanding.clear()
        self._unclaimed.clear()
        self._newer.clear()

    def _keep_newer(self, result: FlowResult, result_id: str | None, receipt: Receipt | None) -> None:
        """Keep a result that came after the first one of its request; its caller may get it with another `get`."""
        self._accepted.add(result_id)
        if result.replay_of is None and result.settled_by is None:
            return  # of another request that reused the message ID
        if result.settled_by is None:
            self._others.report(result.correlation_id, result_id, 1)
        self._newer[result.correlation_id] = result, receipt
        self._newer.move_to_end(result.correlation_id)
        while len(self._newer) > self._max_unclaimed:
            self._newer.popitem(last=False)
        if self._news is not None:
            self._news.set_result(None)
            self._news = None

    def _keep_unclaimed(self, correlation_id: str) -> None:
        self._unclaimed[correlation_id] = None
        while len(self._unclaimed) > self._max_unclaimed:
            self._finish(next(iter(self._unclaimed)))

    def _finish(self, correlation_id: str) -> None:
        self._outstanding.pop(correlation_id, None)
        self._unclaimed.pop(correlation_id, None)
        if (sent := self._sent.pop(correlation_id, None)) is not None:
            self._returned[correlation_id] = sent
        while len(self._returned) > _MAX_REMEMBERED:
            self._returned.popitem(last=False)
