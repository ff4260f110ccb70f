"""Trouble on demand, for tests of clients: what a broker on a bad day does."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """Switches a test may set at any time.

    `refuse_sends`: queue name (lower case) → error condition every send to it is rejected with.
    `refuse_settlements`: so many next settlements are answered "lock lost".
    `frozen`: the broker neither reads nor answers; TCP stays up.
    """

    refuse_sends: dict[str, str] = field(default_factory=dict)
    refuse_settlements: int = 0
    frozen: bool = False
