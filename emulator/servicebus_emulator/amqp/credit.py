"""Link credit (part 2, section 2.6.7): how many messages the sending end of a link may send.

The sending end owns the delivery-count; the receiving end states its credit as from a delivery-count it has seen.
"""

from servicebus_emulator.amqp.serial import advance, distance

_MAX_CREDIT = 0x3FFF_FFFF
"""Credit beyond this is not told apart: serial numbers compare within half of their range only."""


class SendingCredit:
    """Our view where we send and the peer states what it allows."""

    def __init__(self) -> None:
        self._initial = 0
        self._limit = 0
        self.delivery_count = 0

    @property
    def available(self) -> int:
        return max(0, distance(self.delivery_count, self._limit))

    def start_at(self, delivery_count: int) -> None:
        """Credit may have come before our attach was sent; then it counts from the delivery-count set here."""
        self._limit = advance(self._limit, distance(self._initial, delivery_count))
        self._initial = self.delivery_count = delivery_count

    def allow(self, delivery_count: int | None, link_credit: int) -> None:
        """As the peer's flow says. It leaves the delivery-count out while it does not know our initial one."""
        counted_from = self._initial if delivery_count is None else delivery_count
        self._limit = advance(counted_from, min(link_credit, _MAX_CREDIT))

    def consume(self) -> None:
        self.delivery_count = advance(self.delivery_count, 1)

    def drain(self) -> None:
        """Use up what is left, without sending."""
        self.delivery_count = advance(self.delivery_count, self.available)


class ReceivingCredit:
    """Our view where the peer sends and we state what we allow."""

    def __init__(self, delivery_count: int) -> None:
        self.delivery_count = delivery_count
        self.available = 0

    def grant(self, credit: int) -> None:
        self.available = credit

    def received(self) -> None:
        """A delivery came. Some peers send without credit, so it may be gone already."""
        self.delivery_count = advance(self.delivery_count, 1)
        self.available = max(0, self.available - 1)

    def sender_is_at(self, delivery_count: int) -> None:
        """As the sender's flow says: it may have skipped ahead to drain its credit."""
        skipped = distance(self.delivery_count, delivery_count)
        if skipped > 0:
            self.delivery_count = delivery_count
            self.available = max(0, self.available - skipped)
