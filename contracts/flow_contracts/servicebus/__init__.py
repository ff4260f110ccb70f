"""The only adapter over azure-servicebus: deadlines, error translation, links and settlement.

The rules of the SDK that shape this package:

- One receiver per lane, used by one task at a time. A settlement on a receiver that another task polls waits for that
  poll, about 0.2 s each time.
- `prefetch_count=0` and short receives. Nothing cancels a receive that still works; a stopping lane waits for it.
- A sender is open before its first use and serves one task at a time, because concurrent first sends fail.
- Every SDK call has its own deadline. A frozen broker looks like an empty queue, and a send can hang for minutes. After
  a missed deadline the state of the link is unknown, so the adapter discards that receiver or sender.
- The SDK's decoder breaks a link at a message that it cannot decode, so the adapter decodes by itself. A received
  message names the parts that it lacks.
"""

from flow_contracts.connection_string import Transport, check_namespace, parse_connection_string
from flow_contracts.servicebus.bus import ServiceBus
from flow_contracts.servicebus.clock_skew import ClockSkew
from flow_contracts.servicebus.connection import ConnectionString, Endpoint, Namespace
from flow_contracts.servicebus.dead_letter_queue import DeadLetteredMessage, DeadLetterQueue
from flow_contracts.servicebus.deadlines import Deadlines
from flow_contracts.servicebus.errors import (
    LockLost,
    MessageTooLarge,
    ServiceBusFailure,
    ServiceBusMisconfigured,
    ServiceBusUnavailable,
    SessionInUse,
)
from flow_contracts.servicebus.locks import MAX_LOCK_SECONDS, ClockEvidence, drift
from flow_contracts.servicebus.receiver import Delivery, Receiver
from flow_contracts.servicebus.sender_pool import BeforeSend, unconditionally
from flow_contracts.servicebus.session_receiver import SessionReceiver

__all__ = [
    "MAX_LOCK_SECONDS",
    "BeforeSend",
    "ClockEvidence",
    "ClockSkew",
    "ConnectionString",
    "DeadLetterQueue",
    "DeadLetteredMessage",
    "Deadlines",
    "Delivery",
    "Endpoint",
    "LockLost",
    "MessageTooLarge",
    "Namespace",
    "Receiver",
    "ServiceBus",
    "ServiceBusFailure",
    "ServiceBusMisconfigured",
    "ServiceBusUnavailable",
    "SessionInUse",
    "SessionReceiver",
    "Transport",
    "check_namespace",
    "drift",
    "parse_connection_string",
    "unconditionally",
]
