"""Whether anyone but the worker may send to the continuation queue: what lies there is believed without proof.

Service Bus tells a queue's own shared access policies to those who hold Manage. Role assignments and the namespace's
policies cannot be read with a worker's rights; `docs/how-to/configure-queues.md` says what to look for there.
"""

from __future__ import annotations

import logging
from typing import Literal

from flow_worker.runtime.ports import PolicyReader
from flow_worker.settings import InvalidSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)


async def require_sole_sender(
    policies: PolicyReader, queue: str, rule: Literal["where-readable", "required", "trusted"]
) -> None:
    """Raises `InvalidSettings` if others may send to `queue` or, under `required`, if that cannot be told."""
    if rule == "trusted":
        return
    others = await policies.other_senders(queue)
    if others:
        raise InvalidSettings(
            f"continuations.queue: '{queue}' has policies that may send ({', '.join(others)}), but what it holds is "
            "believed without proof; take their Send and Manage rights away, or give continuations another queue"
        )
    if others is None and rule == "required":
        raise InvalidSettings(
            f"continuations.sole_sender is 'required', but the policies of '{queue}' cannot be read; give the worker "
            "the Manage right there, or set 'where-readable' and check them yourself"
        )
    if others is None:
        log(
            _log,
            logging.INFO,
            "continuations.policies_unreadable",
            "Who else may send to the continuation queue could not be read; make sure that nobody may.",
            queue=queue,
        )
