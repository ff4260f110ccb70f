"""Link credit (part 2, section 2.6.7): the number of messages that the sending end of a link may send.

The sending end owns the delivery-count. The receiving end states its credit relative to a delivery-count that it has
seen. Both numbers travel together, because messages may be under way while a flow is.
"""

from servicebus_emulator.amqp.serial import advance, distance

_MAX_CREDIT = 0x3FFF_FFFF
"""Larger credit counts as this much: serial numbers compare within half of their range only (RFC 1982)."""


class SendingCredit:
    """The credit of a link that we send on, as the peer states it."""

    def __init__(self) -> None:
        self._initial = 0
        # The delivery-count up to which we may send. A limit, not a remaining number, because the peer states its
        # credit relative to a delivery-count that may be older than ours.
        self._limit = 0
        self.delivery_count = 0

    @property
    def available(self) -> int:
        return max(0, distance(self.delivery_count, self._limit))

    def start_at(self, delivery_count: int) -> None:
        """Set our initial delivery-count. Credit that arrived before our attach counts from it."""
        self._limit = advance(self._limit, distance(self._initial, delivery_count))
        self._initial = self.delivery_count = delivery_count

    def allow(self, delivery_count: int | None, link_credit: int) -> None:
        """Apply the peer's flow. A peer that has not seen our attach yet leaves the delivery-count out."""
        counted_from = self._initial if delivery_count is None else delivery_count
        self._limit = advance(counted_from, min(link_credit, _MAX_CREDIT))

    def consume(self) -> None:
        """Use up the credit for one message. Check ``available`` before."""
        self.delivery_count = advance(self.delivery_count, 1)

    def drain(self) -> None:
        """Use up the remaining credit without sending."""
        self.delivery_count = advance(self.delivery_count, self.available)


class ReceivingCredit:
    """The credit of a link that the peer sends on, as we state it."""

    def __init__(self, delivery_count: int) -> None:
        self.delivery_count = delivery_count
        self.available = 0

    def grant(self, credit: int) -> None:
        self.available = credit

    def received(self) -> None:
        """Count a delivery. Some peers send without credit, so the credit may be 0 already."""
        self.delivery_count = advance(self.delivery_count, 1)
        self.available = max(0, self.available - 1)

    def sender_advanced_to(self, delivery_count: int) -> None:
        """Apply the sender's delivery-count, which skips ahead when the sender drains its credit."""
        skipped = distance(self.delivery_count, delivery_count)
        # A count behind ours is an older one: the flow left the peer before messages that have already arrived.
        if skipped > 0:
            self.delivery_count = delivery_count
            self.available = max(0, self.available - skipped)
