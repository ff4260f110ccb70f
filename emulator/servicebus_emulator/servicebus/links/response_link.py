"""The links that carry the responses of `$cbs` and `$management`."""

from __future__ import annotations

from collections import deque

from servicebus_emulator.amqp import Error, Link
from servicebus_emulator.servicebus.errors import RESOURCE_LIMIT_EXCEEDED
from servicebus_emulator.servicebus.links.receiver_link import MAX_BACKLOG_BYTES

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Answers that may wait on one link."""


class ResponseLink:
    """A link answers go out on; they wait here while the client gives no credit."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sent = 0

    def answers_to(self, reply_to: str | None) -> bool:
        """Whether a request with this reply-to wants its answer here: by target address, or by link name."""
        target = self.link.attach.target
        address = target.address if target is not None else None
        return reply_to in {address, self.link.name}

    def send(self, payload: bytes) -> None:
        """Send, now or when there is credit. A link on which too much waits is detached."""
        self._waiting.append(payload)
        self._waiting_bytes += len(payload)
        self.flush()
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self._waiting.clear()
            self._waiting_bytes = 0
            self.link.detach(Error(RESOURCE_LIMIT_EXCEEDED, "Too many answers wait for credit, or to be read.", {}))

    def flush(self) -> None:
        """Send what credit allows, and what the client has read so far."""
        while self._waiting and self._may_send():
            payload = self._waiting.popleft()
            self._waiting_bytes -= len(payload)
            self._sent += 1
            self.link.send(payload, tag=self._sent.to_bytes(8, "big"), settled=True)

    def _may_send(self) -> bool:
        link = self.link
        return link.open and link.credit > 0 and link.pending_output_bytes < MAX_BACKLOG_BYTES


def choose(links: list[ResponseLink], reply_to: str | None) -> ResponseLink | None:
    """Where the answer goes: the link that matches reply-to, else the only one."""
    named = [link for link in links if reply_to is not None and link.answers_to(reply_to)]
    if named:
        return named[-1]
    return links[-1] if links else None
