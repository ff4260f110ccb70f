"""The indexes over a queue's messages: by sequence number, in delivery order, and by due time.

Every operation takes logarithmic time at most.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Iterator

from servicebus_emulator.servicebus.entities.message import BrokeredMessage

_COMPACT_AT = 1024


class SequenceIndex:
    """All messages of a queue by sequence number. Assigned numbers only grow, so appending keeps the list sorted."""

    def __init__(self) -> None:
        self._messages: dict[int, BrokeredMessage] = {}
        self._order: list[int] = []
        self._last = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, number: int) -> bool:
        return number in self._messages

    def add(self, message: BrokeredMessage) -> None:
        """Assign the next sequence number to the message and index it."""
        self._last += 1
        message.sequence_number = self._last
        self._messages[self._last] = message
        self._order.append(self._last)

    def insert(self, message: BrokeredMessage) -> None:
        """Index a message under the number that it has, also below the last one; under the next one if it is taken."""
        number = message.sequence_number
        if number <= 0 or number in self._messages:
            self.add(message)
            return
        self._messages[number] = message
        place = bisect_left(self._order, number)
        if self._order[place : place + 1] != [number]:  # a removed message may have left its number in the list
            self._order.insert(place, number)
        self.continue_from(number)

    def restore(self, message: BrokeredMessage) -> None:
        """Index a message under the number that it has. Restore messages in ascending order."""
        self._messages[message.sequence_number] = message
        self._order.append(message.sequence_number)
        self.continue_from(message.sequence_number)

    def continue_from(self, last: int) -> None:
        """Assign only numbers above this one from now on."""
        self._last = max(self._last, last)

    def get(self, number: int) -> BrokeredMessage | None:
        """Return the message, None if there is none."""
        return self._messages.get(number)

    def remove(self, message: BrokeredMessage) -> None:
        """Remove the message.

        Its number stays in the sorted list for now: removing it there would take linear time. Once more than half of
        the list is stale, the index rebuilds it. On average that costs constant time for each removal.
        """
        self._messages.pop(message.sequence_number, None)
        if len(self._order) > _COMPACT_AT and len(self._order) > 2 * len(self._messages):
            self._order = [number for number in self._order if number in self._messages]

    def from_number(self, number: int) -> Iterator[BrokeredMessage]:
        """Yield the messages from this sequence number on, in order. The index must not change meanwhile."""
        for index in range(bisect_left(self._order, number), len(self._order)):
            message = self._messages.get(self._order[index])
            if message is not None:
                yield message


class ReadyMessages:
    """The messages that are ready for delivery, lowest sequence number first.

    A heap and not a plain queue: an abandoned message returns to the place that its sequence number gives it.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, BrokeredMessage]] = []
        self._ties = 0  # keeps two entries of one message from comparing messages

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, message: BrokeredMessage) -> None:
        """Add a message."""
        self._ties += 1
        heapq.heappush(self._heap, (message.sequence_number, self._ties, message))

    def pop(self) -> BrokeredMessage:
        """Remove and return the first message. Raises `IndexError` if there is none."""
        return heapq.heappop(self._heap)[2]


class MessageTimers:
    """The moments at which messages are due. A timer cannot be cancelled: the caller skips those that are obsolete."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, BrokeredMessage]] = []
        self._ties = 0

    def add(self, moment: float, message: BrokeredMessage) -> None:
        """Add a timer. One at infinity is never due, so it is not kept."""
        if moment != math.inf:
            self._ties += 1
            heapq.heappush(self._heap, (moment, self._ties, message))

    def next_due(self) -> float:
        """Return the earliest moment, infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> Iterator[tuple[float, BrokeredMessage]]:
        """Remove and yield each due message with its moment."""
        while self._heap and self._heap[0][0] <= now:
            moment, _, message = heapq.heappop(self._heap)
            yield moment, message
