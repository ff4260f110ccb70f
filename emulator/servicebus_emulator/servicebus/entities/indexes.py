"""Where a queue keeps its messages: by sequence number, in order, each operation at most logarithmic."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator

from servicebus_emulator.servicebus.entities.message import Message

_COMPACT_AT = 1024


class SequenceIndex:
    """All messages of a queue by sequence number; numbers only grow, so a sorted list is appended to."""

    def __init__(self) -> None:
        self._messages: dict[int, Message] = {}
        self._order: list[int] = []
        self._last = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, number: int) -> bool:
        return number in self._messages

    def put(self, message: Message) -> None:
        """Give the message the next sequence number and keep it."""
        self._last += 1
        message.sequence_number = self._last
        self._messages[self._last] = message
        self._order.append(self._last)

    def restore(self, message: Message) -> None:
        """Keep a message under the number it has; they come in order."""
        self._messages[message.sequence_number] = message
        self._order.append(message.sequence_number)
        self.number_from(message.sequence_number)

    def number_from(self, last: int) -> None:
        """Numbers up to this one were given before."""
        self._last = max(self._last, last)

    def get(self, number: int) -> Message | None:
        """The message, None if it is gone."""
        return self._messages.get(number)

    def remove(self, message: Message) -> None:
        """Forget the message; its place in the order is given up later, many at a time."""
        self._messages.pop(message.sequence_number, None)
        if len(self._order) > _COMPACT_AT and len(self._order) > 2 * len(self._messages):
            self._order = [number for number in self._order if number in self._messages]

    def from_number(self, number: int) -> Iterator[Message]:
        """Messages from this sequence number on, in order. The shelf must not change meanwhile."""
        for index in range(bisect_left(self._order, number), len(self._order)):
            message = self._messages.get(self._order[index])
            if message is not None:
                yield message


class ReadyMessages:
    """Messages waiting to be taken, lowest sequence number first: an abandoned one goes back to the front."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Message]] = []
        self._ties = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, message: Message) -> None:
        """Let the message wait."""
        self._ties += 1
        heapq.heappush(self._heap, (message.sequence_number, self._ties, message))

    def pop(self) -> Message:
        """Take the first. Raises `IndexError` if none waits."""
        return heapq.heappop(self._heap)[2]


class MessageTimers:
    """Moments at which something is due for a message. Entries of what has changed since are the caller's to skip."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Message]] = []
        self._ties = 0

    def add(self, moment: float, message: Message) -> None:
        """Remember the moment."""
        if moment != float("inf"):
            self._ties += 1
            heapq.heappush(self._heap, (moment, self._ties, message))

    def next(self) -> float:
        """The earliest moment, infinity if none."""
        return self._heap[0][0] if self._heap else float("inf")

    def due(self, now: float) -> Iterator[tuple[float, Message]]:
        """Take out all that is due, with its moment."""
        while self._heap and self._heap[0][0] <= now:
            moment, _, message = heapq.heappop(self._heap)
            yield moment, message
