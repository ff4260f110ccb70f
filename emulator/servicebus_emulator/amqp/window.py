"""Session windows (part 2, section 2.5.6): the number of transfer frames that may be under way.

A window bounds memory: it counts frames over all links of a session. Credit bounds work: it counts the messages of
one link. A transfer needs both.
"""

from collections import deque
from typing import NamedTuple

from servicebus_emulator.amqp.output import Output
from servicebus_emulator.amqp.serial import advance, distance


class IncomingWindow:
    """The frames that we allow the peer to send.

    We do not refuse a peer that overruns the window: some peers count deliveries instead of frames.
    """

    def __init__(self, size: int, next_id: int) -> None:
        self._size = size
        self.left = size
        self.next_id = next_id

    def received(self) -> bool:
        """Count a transfer frame. Return True if the window was refilled, which a flow must then announce."""
        self.next_id = advance(self.next_id, 1)
        self.left -= 1
        if self.left > self._size // 2:
            return False
        self.left = self._size
        return True


class _Queued(NamedTuple):
    handle: int
    body: bytes
    payload: bytes
    is_transfer: bool


class OutgoingWindow:
    """The frames that the peer allows us to send. Frames above the window wait here, in their order."""

    def __init__(self, output: Output, channel: int, allowed: int) -> None:
        self._output = output
        self._channel = channel
        self._initial_id = 0
        self._queue: deque[_Queued] = deque()
        self._allowed = allowed
        self.next_id = self._initial_id
        self.pending_bytes = 0

    def update(self, next_incoming_id: int | None, incoming_window: int) -> None:
        """Apply the peer's flow, then send the frames that waited for it."""
        # The window counts from the frame that the peer expects next (section 2.5.6). A peer that counts deliveries
        # instead of frames falls behind until the computed window closes. Then its stated window applies as it is.
        seen = self._initial_id if next_incoming_id is None else next_incoming_id
        computed = distance(self.next_id, advance(seen, incoming_window))
        self._allowed = computed if 0 < computed <= incoming_window else incoming_window
        self._flush()

    def send_transfer(self, handle: int, body: bytes, payload: bytes) -> None:
        self._send(_Queued(handle, body, payload, is_transfer=True))

    def send_after_transfers(self, handle: int, body: bytes) -> None:
        """Send a frame that uses no window but must not overtake the transfers that wait for it."""
        self._send(_Queued(handle, body, b"", is_transfer=False))

    def discard(self, handle: int) -> None:
        """Discard the waiting frames of the link with this handle."""
        # Then flush: frames of other links may have waited behind the discarded ones only.
        self._queue = deque(frame for frame in self._queue if frame.handle != handle)
        self.pending_bytes = sum(len(frame.payload) for frame in self._queue)
        self._flush()

    def clear(self) -> None:
        self._queue.clear()
        self.pending_bytes = 0

    def _send(self, frame: _Queued) -> None:
        # Behind waiting frames even if the window is open, so that frames keep their order.
        if self._queue or (frame.is_transfer and self._allowed == 0):
            self._queue.append(frame)
            self.pending_bytes += len(frame.payload)
        else:
            self._write(frame)

    def _flush(self) -> None:
        while self._queue and (self._allowed or not self._queue[0].is_transfer):
            frame = self._queue.popleft()
            self.pending_bytes -= len(frame.payload)
            self._write(frame)

    def _write(self, frame: _Queued) -> None:
        if frame.is_transfer:
            self.next_id = advance(self.next_id, 1)
            self._allowed -= 1
        self._output.write_frame(self._channel, frame.body, frame.payload)
