"""The message IDs that gateways give their requests. No sender to another queue may use such an ID.

The journal binds a message ID to the first request that has it. The gateway derives an ID from the caller and its
idempotency key, so a stranger may guess it. With a prefix of the gateway's queue the stranger cannot take it: only the
gateway's statement proves a request in that queue, and it names the ID.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

RESERVED: Final = "fw-gateway-"
"""The beginning of the message IDs of all gateways."""

_PREFIX: Final = re.compile(r"fw-gateway-[0-9a-f]{8}-")


@lru_cache(maxsize=64)
def prefix_of(queue: str) -> str:
    """Return the prefix of the gateway that sends to this request queue. Service Bus ignores the case of the name."""
    return f"{RESERVED}{hashlib.sha256(queue.lower().encode()).hexdigest()[:8]}-"


def is_reserved(message_id: str) -> bool:
    """Return whether only a gateway may give a request this ID."""
    return message_id[: len(RESERVED)].lower() == RESERVED


def request_id_of(message_id: str) -> str:
    """Return the request's ID in the gateway and in its URLs. A message of an earlier build has no prefix."""
    prefix = _PREFIX.match(message_id)
    return message_id if prefix is None else message_id[prefix.end() :]
