"""The message IDs of sent requests, which distinguish a client's own results from those of other requests."""

from __future__ import annotations

from collections import OrderedDict

from flow_contracts.result import FlowResult

_MAX_REMEMBERED = 10_000


class SentRequests:
    """The latest message ID for each correlation ID.

    Any sender can name any session for its result. So a session may hold results of other senders' requests, with a
    chosen correlation ID. Only the sender of a request knows its message ID, and the result repeats the ID.
    """

    def __init__(self) -> None:
        self._message_ids: OrderedDict[str, str] = OrderedDict()

    def remember(self, correlation_id: str, message_id: str) -> None:
        """Record a request, and forget the oldest if there are too many."""
        self._message_ids[correlation_id] = message_id
        self._message_ids.move_to_end(correlation_id)
        while len(self._message_ids) > _MAX_REMEMBERED:
            self._message_ids.popitem(last=False)

    def message_id(self, correlation_id: str) -> str | None:
        """Return the message ID of the last request under that correlation ID; None if the client has forgotten it."""
        return self._message_ids.get(correlation_id)


def is_answer(result: FlowResult, message_id: str | None) -> bool:
    """Return whether `result` answers the request of that message ID, or its replay. None stands for any request."""
    return message_id is None or message_id in {result.request_message_id, result.replay_of}
