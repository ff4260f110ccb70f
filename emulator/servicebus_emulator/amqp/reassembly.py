"""Reassembly of messages from transfer frames (part 2, section 2.6.14)."""

from dataclasses import dataclass

from servicebus_emulator.amqp.errors import INVALID_FIELD, NOT_ALLOWED, RESOURCE_LIMIT_EXCEEDED, AmqpError, SessionError
from servicebus_emulator.amqp.performatives import Transfer


class Budget:
    """A bound on the bytes of all incomplete messages of a connection.

    Per-link limits alone would let a peer attach many links and fill the memory with partial messages.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    def take(self, size: int) -> None:
        """Reserve ``size`` bytes. Raises AmqpError (resource-limit-exceeded) if the bound is exceeded."""
        self._used += size
        if self._used > self._limit:
            raise AmqpError(
                RESOURCE_LIMIT_EXCEEDED, f"unfinished messages take more than {self._limit} bytes on this connection"
            )

    def release(self, size: int) -> None:
        self._used -= size


@dataclass(slots=True)
class Delivery:
    """A message, or its parts so far. ``oversize``: the message is too large, and its bytes are discarded."""

    delivery_id: int
    tag: bytes
    message_format: int
    settled: bool
    oversize: bool = False
    payload: bytes = b""


class Reassembly:
    """Reassembles the messages of one link. The frames of two deliveries on a link never interleave."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._partial: Delivery | None = None
        self._received = bytearray()

    def add(self, transfer: Transfer, part: bytes, max_size: int) -> Delivery | None:
        """Add a frame; return the delivery if this frame completes it.

        ``max_size`` is in bytes. Raises SessionError for frames out of order, AmqpError if the budget is exceeded.
        """
        delivery = _continue(self._partial, transfer) if self._partial else _start(transfer)
        if transfer.aborted:
            self.discard()
            return None
        delivery.oversize = delivery.oversize or len(self._received) + len(part) > max_size
        if self._partial is None and not transfer.more:
            # The common case, a message in one frame: its bytes are not copied.
            delivery.payload = b"" if delivery.oversize else part
            return delivery
        self._partial = delivery
        self._collect(part)
        return None if transfer.more else self._complete(delivery)

    def discard(self) -> None:
        """Discard the partial delivery and release its bytes."""
        self._discard_bytes()
        self._partial = None

    def _collect(self, part: bytes) -> None:
        if self._partial and self._partial.oversize:
            self._discard_bytes()
        else:
            self._budget.take(len(part))
            self._received += part

    def _complete(self, delivery: Delivery) -> Delivery:
        delivery.payload = bytes(self._received)
        self.discard()
        return delivery

    def _discard_bytes(self) -> None:
        self._budget.release(len(self._received))
        self._received = bytearray()


def _continue(delivery: Delivery, transfer: Transfer) -> Delivery:
    if transfer.delivery_id not in (None, delivery.delivery_id):
        raise SessionError(NOT_ALLOWED, "a delivery starts before the one before it on its link has ended")
    # The sender may decide to settle with any frame of the delivery (section 2.7.5, field settled).
    delivery.settled = delivery.settled or bool(transfer.settled)
    return delivery


def _start(transfer: Transfer) -> Delivery:
    if transfer.delivery_id is None:
        raise SessionError(INVALID_FIELD, "the first transfer of a delivery lacks its delivery-id")
    return Delivery(
        transfer.delivery_id, transfer.delivery_tag or b"", transfer.message_format or 0, bool(transfer.settled)
    )
