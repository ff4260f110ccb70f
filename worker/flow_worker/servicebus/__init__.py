"""The queues, through azure.servicebus: deadlines, error translation, settlement.

Rules learned the hard way, kept here so that no one else needs to know them:

- One receiver per lane, used by one task at a time: settling on a receiver that another task polls costs 0.2 s.
- `prefetch_count=0`, and a receive is never cancelled while it works: it waits briefly and returns.
- A sender is opened before use and used by one task at a time: concurrent cold sends fail.
- Every SDK call has its own deadline: a frozen peer looks like an empty queue, and sends hang for minutes. After a
  missed deadline the link's state is unknown, so the receiver or sender is thrown away.
"""

from flow_worker.servicebus.bus import ServiceBus
from flow_worker.servicebus.dead_letters import DeadLettered, DeadLetterQueue
from flow_worker.servicebus.errors import LockLost, ServiceBusUnavailable, TooLarge, Undecodable
from flow_worker.servicebus.receiver import Delivery, Receiver

__all__ = [
    "DeadLetterQueue",
    "DeadLettered",
    "Delivery",
    "LockLost",
    "Receiver",
    "ServiceBus",
    "ServiceBusUnavailable",
    "TooLarge",
    "Undecodable",
]
