"""Serial numbers: 32-bit counters that wrap around (RFC 1982, as part 2, section 2.8.10 asks for)."""

_MODULUS = 1 << 32
_HALF = 1 << 31


def advance(number: int, by: int) -> int:
    """``number`` moved on."""
    return (number + by) % _MODULUS


def distance(start: int, end: int) -> int:
    """How far ``end`` is ahead of ``start``; negative when it is behind."""
    return (end - start + _HALF) % _MODULUS - _HALF
