"""What was sent from here, so that a result which answers someone else's request is told from one's own."""

from __future__ import annotations

from collections import OrderedDict

from flow_contracts.result import FlowResult

_REMEMBERED = 10_000


class Sent:
    """Message IDs by correlation ID, the latest of them.

    Whoever may send requests can name any session for the result, so a session holds whatever its name was given
    for. What nobody else knows is the message ID of the request, which its result repeats.
    """

    def __init__(self) -> None:
        self._message_ids: OrderedDict[str, str] = OrderedDict()

    def remember(self, correlation_id: str, message_id: str) -> None:
        """A request was sent."""
        self._message_ids[correlation_id] = message_id
        self._message_ids.move_to_end(correlation_id)
        while len(self._message_ids) > _REMEMBERED:
            self._message_ids.popitem(last=False)

    def message_id(self, correlation_id: str) -> str | None:
        """Of the request sent last under that correlation ID; None if it was not sent from here, or long ago."""
        return self._message_ids.get(correlation_id)


def answers(result: FlowResult, message_id: str | None) -> bool:
    """Whether it is the result of the request with that message ID, or of its replay; of any, if that is not known."""
    return message_id is None or message_id in {result.request_message_id, result.replay_of}
