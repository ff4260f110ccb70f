"""Limits of one connection."""

from dataclasses import dataclass

MIN_MAX_FRAME_SIZE = 512
"""Bytes. Every peer accepts frames of this size (part 2, section 2.8.19)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that we announce to the peer or enforce. Raises ValueError if the protocol cannot carry a value."""

    max_frame_size: int = 65_536
    """Bytes of one incoming frame."""
    channel_max: int = 1_023
    """The highest channel number: one less than the number of sessions of a connection."""
    handle_max: int = 255
    """The highest link handle: one less than the number of links of a session."""
    max_message_size: int = 104_857_600
    """Bytes of one incoming message. ``Link.accept`` may set a lower limit."""
    max_buffered_bytes: int = 134_217_728
    """Bytes of all incomplete incoming messages together."""
    incoming_window: int = 65_536
    """Transfer frames that a peer may send on a session before it must wait. Half of it used, the window refills."""
    idle_timeout_ms: int = 240_000
    """Milliseconds within which the peer must send a frame. Azure Service Bus announces the same value."""

    def __post_init__(self) -> None:
        bounds = {
            "max_frame_size": (MIN_MAX_FRAME_SIZE, 0xFFFF_FFFF),
            "channel_max": (0, 0xFFFF),
            "handle_max": (0, 0xFFFF_FFFF),
            "max_message_size": (1, 0xFFFF_FFFF),
            "max_buffered_bytes": (1, 0xFFFF_FFFF),
            "incoming_window": (2, 0x7FFF_FFFF),
            "idle_timeout_ms": (1, 0xFFFF_FFFF),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from {low} to {high}")


DEFAULT_LIMITS = Limits()
