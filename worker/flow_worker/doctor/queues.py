"""Checks of each queue that it exists, that it has the shape the worker relies on, and the worker's right on it.

Opening a link proves a right: nothing is received or sent over it. Only an identity with the Manage right sees a
queue's shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from flow_contracts.servicebus import ServiceBus, ServiceBusFailure, ServiceBusMisconfigured
from flow_contracts.servicebus.policies import QueueShape
from flow_worker.doctor.finding import Check, Result, failed, ok, unseen
from flow_worker.doctor.hosts import NO_ADMINISTRATION, SET_ADMINISTRATION, has_administration, is_emulator
from flow_worker.settings import Settings

_MIN_LOCK = timedelta(minutes=1)
_MAX_GATEWAY_LOCK = timedelta(minutes=1)
_MIN_DELIVERIES = 5
_FOREVER = timedelta(days=3650)
_CREATE = "the page 'Configure the queues' of the documentation has the command."
_AGAIN = f"Delete the queue and create it again, because this cannot be changed; {_CREATE}"


_COPY = (
    "Copy the connection string again: its key is wrong or was rotated. If it is right, synchronise this machine's "
    "clock."
)


@dataclass(frozen=True, slots=True)
class QueueUse:
    """What the worker does with one queue, and what it needs of it."""

    name: str
    receives: bool
    sends: bool
    sessions: bool = False
    detects_duplicates: bool = True
    dead_letters_expired: bool = False
    sole_sender: bool = False
    for_gateway: bool = False
    """The worker's results for a gateway, which reads them without sessions."""


def uses_of(settings: Settings) -> list[QueueUse]:
    """Return all queues of the settings."""
    requests = [
        QueueUse(
            queue.name,
            receives=True,
            sends=False,
            # Dataverse's own messages carry no message ID of the sender's, so there is nothing to detect.
            detects_duplicates=queue.authority != "dataverse",
            dead_letters_expired=True,
        )
        for queue in settings.request_queues
    ]
    own = QueueUse(settings.continuations.queue, receives=True, sends=True, sole_sender=True)
    replies = [QueueUse(name, receives=False, sends=True, sessions=True) for name in settings.replies.queues]
    gateways = [
        QueueUse(name, receives=False, sends=True, for_gateway=True)
        for name in dict.fromkeys(settings.gateway_reply_queues.values())
    ]
    return [*requests, own, *replies, *gateways]


def checks(settings: Settings, bus: ServiceBus) -> list[Check]:
    """Return the checks of all queues."""
    found = []
    by_key = settings.servicebus.connection_string is not None
    for use in uses_of(settings):
        name = f"queue {use.name}"
        if use.receives:
            found.append(Check(name, "right to receive", partial(check_receive, bus, use.name, by_key)))
        if use.sends:
            found.append(Check(name, "right to send", partial(check_send, bus, use.name, by_key)))
        found.append(Check(name, "shape", partial(_check_shape, settings, bus, use)))
    return found


async def check_receive(bus: ServiceBus, queue: str, by_key: bool) -> Result:
    """Check the right to receive. `by_key`: with a connection string."""
    try:
        async with bus.receiver(queue):
            return ok("a receiver opens; no message was received")
    except ServiceBusFailure as error:
        return _refused(error, "Azure Service Bus Data Receiver", "Listen", by_key=by_key)


async def check_send(bus: ServiceBus, queue: str, by_key: bool) -> Result:
    """Check the right to send. `by_key`: with a connection string."""
    try:
        await bus.verify_send(queue)
    except ServiceBusFailure as error:
        return _refused(error, "Azure Service Bus Data Sender", "Send", by_key=by_key)
    return ok("a sender opens; nothing was sent")


def _refused(error: ServiceBusFailure, role: str, right: str, *, by_key: bool) -> Result:
    text = str(error).split(": ", 1)[-1]
    if "no such queue" in text:
        return failed("the queue does not exist", f"Create it, or correct its name in the settings; {_CREATE}")
    if "requires sessions" in text.lower() or "requiressession" in text.lower():
        return failed("the queue requires sessions, and the worker receives without", _AGAIN)
    if by_key and "refused the credential" in text and "claim" not in text.lower():
        # A key that lacks a right is refused too, but Service Bus then names the claim that is missing.
        return failed("Service Bus refused the key of the connection string", _COPY)
    if isinstance(error, ServiceBusMisconfigured):
        return failed(text, f"Assign the role '{role}' on the queue, or the right {right} to its access policy.")
    return failed(text, "Check the network lines of this report, and that the broker runs.")


async def _check_shape(settings: Settings, bus: ServiceBus, use: QueueUse) -> list[Result]:
    url = settings.servicebus.administration_url
    if not has_administration(settings.servicebus):
        return [unseen(f"not visible: {NO_ADMINISTRATION}", SET_ADMINISTRATION)]
    try:
        shape = await bus.shape(use.name, url)
    except ServiceBusMisconfigured as error:
        if "no queue" in str(error):
            detail = "the queue does not exist" if url is None else f"the queue does not exist at {url}"
            other = "" if url is None else " and servicebus.administration_url"
            return [failed(detail, f"Create it, or correct its name{other} in the settings; {_CREATE}")]
        cause = "the key is wrong or " if settings.servicebus.connection_string is not None else ""
        detail = f"not visible, because {cause}this identity lacks the Manage right ({error})"
        return [unseen(detail, _compare(use))]
    except ServiceBusFailure as error:
        remedy = _compare(use)
        if is_emulator(settings.servicebus):
            remedy = SET_ADMINISTRATION
        return [unseen(f"not visible: {error}", remedy)]
    faults = _faults(settings, shape, use)
    return [*(faults or [ok(_described(shape))]), *_senders(settings, shape, use)]


def _compare(use: QueueUse) -> str:
    return f"Compare it with {_CREATE.removesuffix(' has the command.')}: az servicebus queue show -n {use.name} …"


def _faults(settings: Settings, shape: QueueShape, use: QueueUse) -> list[Result]:
    found = []
    if not shape.is_active:
        found.append(
            failed(
                "the queue is disabled",
                f"Enable it: az servicebus queue update -n {use.name} --status Active",
                aspect="status",
            )
        )
    if shape.requires_session != use.sessions:
        receiver = "gateway" if use.for_gateway else "worker"
        wrong = "off, so no client finds its result" if use.sessions else f"on, and the {receiver} receives without"
        found.append(failed(f"sessions are {wrong}", _AGAIN, aspect="sessions"))
    found += _duplicate_faults(settings, shape, use)
    if use.receives and shape.lock_duration < _MIN_LOCK:
        found.append(
            failed(
                f"the lock of {shape.lock_duration} is too short for a short outage",
                f"Set it to PT5M: az servicebus queue update -n {use.name} --lock-duration PT5M",
                aspect="lock",
            )
        )
    if use.for_gateway and shape.lock_duration > _MAX_GATEWAY_LOCK:
        found.append(
            failed(
                f"results that a killed gateway held wait for the lock of {shape.lock_duration}",
                f"Set it to PT10S: az servicebus queue update -n {use.name} --lock-duration PT10S",
                aspect="lock",
            )
        )
    if use.receives and shape.max_delivery_count < _MIN_DELIVERIES:
        found.append(
            failed(
                f"the max delivery count of {shape.max_delivery_count} dead-letters a request after few interruptions",
                f"Set it to 10: az servicebus queue update -n {use.name} --max-delivery-count 10",
                aspect="max delivery count",
            )
        )
    return [*found, *_expiry_faults(settings, shape, use)]


def _duplicate_faults(settings: Settings, shape: QueueShape, use: QueueUse) -> list[Result]:
    window, aspect = shape.duplicate_detection_window, "duplicate detection"
    if not use.detects_duplicates:
        return []
    if window is None:
        return [failed("duplicate detection is off, so a repeated message counts twice", _AGAIN, aspect=aspect)]
    if use.sessions:
        least, reason = timedelta(seconds=settings.replies.time_to_live_seconds), "replies.time_to_live_seconds"
    else:
        least, reason = (2 * shape.lock_duration if use.sole_sender else timedelta()), "two lock durations"
    if window >= least:
        return []
    remedy = f"az servicebus queue update -n {use.name} --duplicate-detection-history-time-window {_iso(least)}"
    return [failed(f"the window of {window} is shorter than {reason} ({least})", f"Raise it: {remedy}", aspect=aspect)]


def _expiry_faults(settings: Settings, shape: QueueShape, use: QueueUse) -> list[Result]:
    found = []
    if use.dead_letters_expired and not shape.dead_letters_expired:
        found.append(
            failed(
                "expired requests are deleted, so their senders get no result",
                f"az servicebus queue update -n {use.name} --enable-dead-lettering-on-message-expiration true",
                aspect="expired messages",
            )
        )
    if use.sessions or use.for_gateway:
        least, setting = timedelta(seconds=settings.replies.time_to_live_seconds), "replies.time_to_live_seconds"
    elif use.sole_sender:
        least, setting = timedelta(seconds=settings.journal.max_outage_seconds), "journal.max_outage_seconds"
    else:
        return found
    if shape.time_to_live < least:
        remedy = f"Raise it: az servicebus queue update -n {use.name} --default-message-time-to-live {_iso(least)}"
        detail = f"the time to live of {shape.time_to_live} is shorter than {setting} ({least})"
        found.append(failed(detail, remedy, aspect="time to live"))
    return found


def _senders(settings: Settings, shape: QueueShape, use: QueueUse) -> list[Result]:
    if not use.sole_sender and not use.for_gateway:
        return []
    if settings.continuations.sole_sender == "trusted" and not use.for_gateway:
        return [unseen("not compared: continuations.sole_sender is 'trusted'", aspect="sole sender")]
    if shape.other_senders:
        return [
            failed(
                f"the policies {', '.join(shape.other_senders)} may send to it, and only the worker should",
                "Remove their Send and Manage rights.",
                aspect="sole sender",
            )
        ]
    return [ok("no other policy of the queue may send; check roles and the namespace's policies", aspect="sole sender")]


def _described(shape: QueueShape) -> str:
    window = shape.duplicate_detection_window
    live = "no limit" if shape.time_to_live > _FOREVER else str(shape.time_to_live)
    return (
        f"sessions {'on' if shape.requires_session else 'off'}, duplicate detection "
        f"{'off' if window is None else window}, lock {shape.lock_duration}, time to live {live}, "
        f"max delivery count {shape.max_delivery_count}"
    )


def _iso(duration: timedelta) -> str:
    return f"PT{int(duration.total_seconds())}S"
