"""Counts and logs the results that a client passes over because it returns another one."""

from __future__ import annotations

import logging
from collections import OrderedDict

_log = logging.getLogger(__name__)

_MAX_REMEMBERED = 1_000


class OtherResults:
    """Reports each result with others beside it once, however often the client peeks at it."""

    def __init__(self) -> None:
        self._reported: OrderedDict[tuple[str, str | None, int], None] = OrderedDict()
        self.count = 0
        """The number of results that were passed over."""

    def report(self, correlation_id: str, result_id: str | None, others: int) -> None:
        """Report that the client returns the result with this message ID, and passes over `others`."""
        place = (correlation_id, result_id, others)
        if not others or place in self._reported:
            return
        self._reported[place] = None
        if len(self._reported) > _MAX_REMEMBERED:
            self._reported.popitem(last=False)
        self.count += others
        # %r: any sender can choose the IDs of a message, and a line break would forge a log line.
        _log.warning(
            "There are %d results for correlation ID %r: a person replayed the request, or several requests have "
            "the ID. The client returns the newest result of one request; `take` also returns the others.",
            others + 1,
            correlation_id,
        )
