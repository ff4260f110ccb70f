"""Messages from the transfer frames they came in (part 2, section 2.6.14)."""

from dataclasses import dataclass

from servicebus_emulator.amqp.errors import INVALID_FIELD, NOT_ALLOWED, RESOURCE_LIMIT_EXCEEDED, AmqpError, SessionError
from servicebus_emulator.amqp.performatives import Transfer


class Budget:
    """The bytes that a connection's unfinished messages may take together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    def take(self, size: int) -> None:
        """Raises AmqpError (resource-limit-exceeded) when nothing is left."""
        self._used += size
        if self._used > self._limit:
            raise AmqpError(
                RESOURCE_LIMIT_EXCEEDED, f"unfinished messages take more than {self._limit} bytes on this connection"
            )

    def give_back(self, size: int) -> None:
        self._used -= size


@dataclass(slots=True)
class Delivery:
    """A message, or the part of it that came so far. ``oversize``: too large, its bytes are thrown away."""

    delivery_id: int
    tag: bytes
    message_format: int
    settled: bool
    oversize: bool = False
    payload: bytes = b""


class Reassembly:
    """Of one link: its deliveries come one after the other."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._partial: Delivery | None = None
        self._received = bytearray()

    def add(self, transfer: Transfer, part: bytes, max_size: int) -> Delivery | None:
        """The delivery that is complete with this frame, if it is. Raises SessionError for frames out of order."""
        delivery = _continued(self._partial, transfer) if self._partial else _begun(transfer)
        if transfer.aborted:
            self.discard()
            return None
        delivery.oversize = delivery.oversize or len(self._received) + len(part) > max_size
        if self._partial is None and not transfer.more:
            delivery.payload = b"" if delivery.oversize else part
            return delivery
        self._partial = delivery
        self._collect(part)
        return None if transfer.more else self._completed(delivery)

    def discard(self) -> None:
        """Forget the delivery that is under way."""
        self._release()
        self._partial = None

    def _collect(self, part: bytes) -> None:
        if self._partial and self._partial.oversize:
            self._release()
        else:
            self._budget.take(len(part))
            self._received += part

    def _completed(self, delivery: Delivery) -> Delivery:
        delivery.payload = bytes(self._received)
        self.discard()
        return delivery

    def _release(self) -> None:
        self._budget.give_back(len(self._received))
        self._received = bytearray()


def _continued(delivery: Delivery, transfer: Transfer) -> Delivery:
    if transfer.delivery_id not in (None, delivery.delivery_id):
        raise SessionError(NOT_ALLOWED, "a delivery starts before the one before it on its link has ended")
    delivery.settled = delivery.settled or bool(transfer.settled)
    return delivery


def _begun(transfer: Transfer) -> Delivery:
    if transfer.delivery_id is None:
        raise SessionError(INVALID_FIELD, "the first transfer of a delivery lacks its delivery-id")
    return Delivery(
        transfer.delivery_id, transfer.delivery_tag or b"", transfer.message_format or 0, bool(transfer.settled)
    )
