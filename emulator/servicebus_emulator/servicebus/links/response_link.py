"""A link on which a client receives the responses of `$cbs` or `$management`."""

from __future__ import annotations

from collections import deque

from servicebus_emulator.amqp import Error, Link
from servicebus_emulator.servicebus.errors import RESOURCE_LIMIT_EXCEEDED
from servicebus_emulator.servicebus.links.receiver_link import MAX_BACKLOG_BYTES

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""The maximum size of the responses that wait on one link."""


class ResponseLink:
    """Sends responses. They wait while the client gives no credit or does not read."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sent = 0

    def matches(self, reply_to: str | None) -> bool:
        """Return True if a request with this reply-to expects its response on this link.

        SDKs put the link's target address into reply-to. The JavaScript SDK puts the link's name there for `$cbs`.
        """
        target = self.link.attach.target
        address = target.address if target is not None else None
        return reply_to in {address, self.link.name}

    def send(self, payload: bytes) -> None:
        """Send a response, now or when there is credit. Detach the link if too many responses wait."""
        self._waiting.append(payload)
        self._waiting_bytes += len(payload)
        self.flush()
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self._waiting.clear()
            self._waiting_bytes = 0
            self.link.detach(Error(RESOURCE_LIMIT_EXCEEDED, "Too many answers wait for credit, or to be read.", {}))

    def flush(self) -> None:
        """Send waiting responses while the client gives credit and reads."""
        while self._waiting and self._can_send():
            payload = self._waiting.popleft()
            self._waiting_bytes -= len(payload)
            self._sent += 1
            self.link.send(payload, tag=self._sent.to_bytes(8, "big"), settled=True)

    def _can_send(self) -> bool:
        link = self.link
        return link.open and link.credit > 0 and link.pending_output_bytes < MAX_BACKLOG_BYTES


def choose_response_link(links: list[ResponseLink], reply_to: str | None) -> ResponseLink | None:
    """Return the link for a response: the latest one that matches reply-to, else the latest one; None without links.

    The Python SDK sends no reply-to to `$cbs`, and attaches one link only.
    """
    matching = [link for link in links if reply_to is not None and link.matches(reply_to)]
    if matching:
        return matching[-1]
    return links[-1] if links else None
