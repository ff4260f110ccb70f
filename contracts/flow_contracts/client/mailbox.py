"""Results on their way to those who wait for them, by correlation ID."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from flow_contracts.client.errors import NotOutstanding, ResultTimeout, ServiceBusTrouble
from flow_contracts.client.sent import answers
from flow_contracts.result import FlowResult

_REMEMBERED = 10_000
"""How many correlation IDs stay known after their result was handed over, so that a redelivery is recognised."""


class Mailbox:
    """One place per outstanding request. Holds at most `max_unclaimed` results that nobody has waited for yet."""

    def __init__(self, max_unclaimed: int) -> None:
        self._max_unclaimed = max_unclaimed
        self._outstanding: dict[str, asyncio.Future[FlowResult]] = {}
        self._message_ids: dict[str, str] = {}
        self._unclaimed: OrderedDict[str, None] = OrderedDict()
        self._done: OrderedDict[str, str | None] = OrderedDict()

    def expect(self, correlation_id: str, message_id: str) -> None:
        """Make a place for a request's result. Raises `ValueError` if there is one already for its correlation ID."""
        if correlation_id in self._outstanding:
            raise ValueError(f"a request with correlation ID '{correlation_id}' is outstanding already")
        self._done.pop(correlation_id, None)
        self._outstanding[correlation_id] = asyncio.get_running_loop().create_future()
        self._message_ids[correlation_id] = message_id

    def forget(self, correlation_id: str) -> None:
        """Take a place away: its request was not sent."""
        self._outstanding.pop(correlation_id, None)
        self._message_ids.pop(correlation_id, None)

    def put(self, result: FlowResult) -> bool:
        """Hand a result over. False if nobody here sent its request; True also for one that came before."""
        correlation_id = result.correlation_id
        place = self._outstanding.get(correlation_id)
        if place is None:
            return correlation_id in self._done and answers(result, self._done[correlation_id])
        if not answers(result, self._message_ids[correlation_id]):
            return False
        if not place.done():
            place.set_result(result)
            self._unclaimed[correlation_id] = None
            while len(self._unclaimed) > self._max_unclaimed:
                self._finish(next(iter(self._unclaimed)))
        return True

    async def get(self, correlation_id: str, timeout: float) -> FlowResult:
        """The result, handed over once.

        Raises `NotOutstanding`, and `ResultTimeout` after `timeout` seconds; then it may be asked for again.
        """
        place = self._outstanding.get(correlation_id)
        if place is None:
            raise NotOutstanding(
                f"no result is outstanding under correlation ID '{correlation_id}': it was not submitted here, was "
                f"handed over before, or was dropped because more than {self._max_unclaimed} were waiting unclaimed"
            )
        try:
            async with asyncio.timeout(timeout):
                result = await asyncio.shield(place)
        except TimeoutError:
            raise ResultTimeout(correlation_id, timeout) from None
        self._finish(correlation_id)
        return result

    def close(self) -> None:
        """Tell all who still wait that nothing will come here."""
        for correlation_id, place in self._outstanding.items():
            if not place.done():
                place.set_exception(
                    ServiceBusTrouble(f"closed before a result came for correlation ID '{correlation_id}'")
                )
                place.exception()  # marks it as seen: perhaps nobody waits
        self._outstanding.clear()
        self._unclaimed.clear()

    def _finish(self, correlation_id: str) -> None:
        self._outstanding.pop(correlation_id, None)
        self._unclaimed.pop(correlation_id, None)
        self._done[correlation_id] = self._message_ids.pop(correlation_id, None)
        while len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
