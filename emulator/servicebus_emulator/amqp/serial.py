"""Serial numbers: 32-bit counters that wrap around (RFC 1982; part 2, section 2.8.10)."""

_MODULUS = 1 << 32
_HALF = 1 << 31


def advance(number: int, by: int) -> int:
    """Return ``number`` plus ``by``, wrapped around."""
    return (number + by) % _MODULUS


def distance(start: int, end: int) -> int:
    """Return how far ``end`` is ahead of ``start``; negative if it is behind."""
    return (end - start + _HALF) % _MODULUS - _HALF
