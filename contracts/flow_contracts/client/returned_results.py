"""The identities of the results that a client has returned, so that it returns each of them once."""

from __future__ import annotations

from collections import OrderedDict

from flow_contracts.request import FlowRequest
from flow_contracts.result import reply_message_id

_MAX_REMEMBERED = 10_000


class ReturnedResults:
    """Remembers the message IDs of results, up to a bound.

    The message ID of a result follows from its request. A worker may publish a result twice, for example after a crash
    that outlasts the window of duplicate detection. Both messages then have the same ID.
    """

    def __init__(self) -> None:
        self._message_ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, message_id: str | None) -> bool:
        return message_id in self._message_ids

    def add(self, message_id: str | None) -> None:
        """Remember a result, and forget the oldest if there are too many. A result without message ID has no copy."""
        if message_id is None:
            return
        self._message_ids[message_id] = None
        self._message_ids.move_to_end(message_id)
        while len(self._message_ids) > _MAX_REMEMBERED:
            self._message_ids.popitem(last=False)

    def expect_again(self, request: FlowRequest) -> None:
        """Forget the results of a request: a sender that sends the same request again wants its result again."""
        for is_settling in (False, True):
            result_id = reply_message_id(
                request.message_id,
                request.correlation_id,
                request.reply_to_session_id,
                is_settling=is_settling,
                reply_key=request.reply_key,
            )
            self._message_ids.pop(result_id, None)
