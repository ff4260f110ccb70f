"""The output buffer: bytes that wait to be written to the peer."""

from servicebus_emulator.amqp.framing import AMQP_FRAME, frame_header


class Output:
    """Collects frames. Consecutive frames share a chunk, so a burst costs one write to the transport."""

    def __init__(self) -> None:
        self._sealed: list[bytes] = []
        self._open = bytearray()
        self.pending_bytes = 0

    def write(self, data: bytes) -> None:
        self._open += data
        self.pending_bytes += len(data)

    def write_frame(self, channel: int, body: bytes, payload: bytes = b"", kind: int = AMQP_FRAME) -> None:
        self.write(frame_header(len(body) + len(payload), channel, kind))
        self.write(body)
        self.write(payload)

    def seal(self) -> None:
        """End the current chunk: later bytes go into a new one."""
        if self._open:
            self._sealed.append(bytes(self._open))
            self._open.clear()

    def take(self) -> list[bytes]:
        """Return the chunks and forget them. Write each chunk with a separate call."""
        self.seal()
        chunks, self._sealed = self._sealed, []
        self.pending_bytes = 0
        return chunks
