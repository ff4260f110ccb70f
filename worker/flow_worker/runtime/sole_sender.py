"""Checks that only the worker may send to the continuation queue: a second wall beside the seal of its messages.

Service Bus reveals a queue's shared access policies to holders of the Manage right. It does not reveal role assignments
and the namespace's policies to a worker; the operator has to check them (`docs/how-to/configure-queues.md`).
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
    """Raise `InvalidSettings` if others may send to `queue` or, under `required`, if the policies are unreadable."""
    if rule == "trusted":
        return
    others = await policies.other_senders(queue)
    if others:
        raise InvalidSettings(
            f"continuations.queue: the policies {', '.join(others)} of '{queue}' may send to it, but only the worker "
            "should; remove their Send and Manage rights, or name another queue"
        )
    if others is None and rule == "required":
        raise InvalidSettings(
            f"continuations.sole_sender is 'required', but the policies of '{queue}' cannot be read; give the worker "
            "the Manage right on the queue, or set 'where-readable' and check the policies yourself"
        )
    if others is None:
        sentence = (
            "The worker cannot read the policies of the continuation queue; make sure that only the worker may send."
        )
        log(_log, logging.INFO, "continuations.policies_unreadable", sentence, queue=queue)
