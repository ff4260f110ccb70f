"""`QueueDescription`: the rules of a queue, and how it is doing, in the administration's XML.

The elements come out in the order in which the service writes them; they are taken in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit
from xml.etree import ElementTree

from servicebus_emulator.admin import authorization
from servicebus_emulator.admin.atom import CONNECT, INSTANCE, tag, text
from servicebus_emulator.servicebus import duration
from servicebus_emulator.servicebus.access.policies import Policy
from servicebus_emulator.servicebus.duration import MAX_SECONDS
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import (
    MAX_LOCK_SECONDS,
    MAX_METADATA_CHARACTERS,
    QueueSettings,
    QueueStatus,
)
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, NOT_IMPLEMENTED, ServiceBusError

_COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
_SHORTEST_AUTO_DELETE_SECONDS = 300.0
_SIZE = "MaxMessageSizeInKilobytes"
_SIZED_SINCE = "2021-05"
"""The API version from which on there is that property."""
_TAKEN = (
    "LockDuration",
    "MaxSizeInMegabytes",
    "RequiresDuplicateDetection",
    "RequiresSession",
    "DefaultMessageTimeToLive",
    "DeadLetteringOnMessageExpiration",
    "DuplicateDetectionHistoryTimeWindow",
    "MaxDeliveryCount",
    "EnableBatchedOperations",
    "Status",
    "ForwardTo",
    "UserMetadata",
    "AutoDeleteOnIdle",
    "EnablePartitioning",
    "ForwardDeadLetteredMessagesTo",
    "EnableExpress",
    _SIZE,
)
_TOLD_ONLY = frozenset(
    {
        "SizeInBytes",
        "MessageCount",
        "IsAnonymousAccessible",
        "CreatedAt",
        "UpdatedAt",
        "AccessedAt",
        "SupportOrdering",
        "CountDetails",
        "EntityAvailabilityStatus",
    }
)
"""Clients send them back as they got them; they change nothing."""
_RULES = "AuthorizationRules"


def _fields(element: ElementTree.Element) -> dict[str, str]:
    """The properties in a `QueueDescription`, as they are written. Raises `ServiceBusError`, naming what is wrong."""
    kind = element.tag.rpartition("}")[2]
    if kind in ("TopicDescription", "SubscriptionDescription", "RuleDescription"):
        raise ServiceBusError(NOT_IMPLEMENTED, f"{kind}: there are only queues here, no topics; use a queue.")
    if element.tag != f"{{{CONNECT}}}QueueDescription":
        raise ServiceBusError(ARGUMENT_ERROR, f"The content must be a QueueDescription in the namespace {CONNECT}.")
    found: dict[str, str] = {}
    for child in element:
        name = child.tag.rpartition("}")[2]
        if child.tag != f"{{{CONNECT}}}{name}" or not (name in _TAKEN or name in _TOLD_ONLY or name == _RULES):
            raise bad(name, f"there is no such property; known: {', '.join(sorted((*_TAKEN, _RULES)))}")
        if name in found:
            raise bad(name, "is there twice")
        if name in _TAKEN and child.get(f"{{{INSTANCE}}}nil") != "true":
            found[name] = (child.text or "").strip()
    return found


def _policies(element: ElementTree.Element, name: str, before: QueueSettings | None) -> tuple[Policy, ...]:
    """The shared access policies that a description asks for; those from `before` if it does not speak of any."""
    rules = element.find(f"{{{CONNECT}}}{_RULES}")
    if rules is None:
        return () if before is None else before.policies
    return authorization.given(rules, name)


def settings(
    name: str, description: ElementTree.Element, before: QueueSettings | None, *, api_version: str | None
) -> QueueSettings:
    """The rules that a `QueueDescription` asks for. Raises `ServiceBusError`, naming the property.

    What is not given is the default; but what cannot be changed is as `before`.
    """
    given = _fields(description)
    if _SIZE in given and not _tells_size(api_version):
        raise bad(_SIZE, f"there is no such property in API version {api_version}, only since {_SIZED_SINCE}")
    values = _Values(given)
    return QueueSettings(
        name=name if before is None else before.name,
        lock_seconds=values.seconds("LockDuration", 60.0, most=MAX_LOCK_SECONDS),
        max_delivery_count=values.whole("MaxDeliveryCount", 10, most=2000),
        requires_session=values.fixed("RequiresSession", None if before is None else before.requires_session),
        requires_duplicate_detection=values.fixed(
            "RequiresDuplicateDetection", None if before is None else before.requires_duplicate_detection
        ),
        duplicate_detection_seconds=values.seconds("DuplicateDetectionHistoryTimeWindow", 600.0, most=7 * 86_400),
        default_ttl_seconds=values.seconds("DefaultMessageTimeToLive", MAX_SECONDS),
        dead_letter_on_expiration=values.flag("DeadLetteringOnMessageExpiration", default=False),
        max_message_bytes=values.whole(_SIZE, 256, most=100 * 1024) * 1024,
        max_size_mb=values.whole("MaxSizeInMegabytes", 1024, most=81_920),
        status=values.status(),
        forward_to=values.queue("ForwardTo"),
        forward_dead_letters_to=values.queue("ForwardDeadLetteredMessagesTo"),
        auto_delete_seconds=values.seconds("AutoDeleteOnIdle", MAX_SECONDS, least=_SHORTEST_AUTO_DELETE_SECONDS),
        user_metadata=values.text("UserMetadata"),
        batched_operations=values.flag("EnableBatchedOperations", default=True),
        partitioning=values.fixed("EnablePartitioning", None if before is None else before.partitioning),
        express=values.flag("EnableExpress", default=False),
        policies=_policies(description, name, before),
    )


def describe(queue: Queue, *, api_version: str | None, host: str, at_work: bool) -> str:
    """A `QueueDescription`; with when it was last used and what is in it, if `at_work`. `host` is the namespace's."""
    rules, counts = queue.settings, _counts(queue)
    created, updated = duration.format_timestamp(queue.created_at), duration.format_timestamp(queue.updated_at)
    told: list[tuple[str, str | None]] = [
        ("LockDuration", duration.format_duration(rules.lock_seconds)),
        ("MaxSizeInMegabytes", str(rules.max_size_mb)),
        ("RequiresDuplicateDetection", _bool(rules.requires_duplicate_detection)),
        ("RequiresSession", _bool(rules.requires_session)),
        ("DefaultMessageTimeToLive", duration.format_duration(rules.default_ttl_seconds)),
        ("DeadLetteringOnMessageExpiration", _bool(rules.dead_letter_on_expiration)),
        ("DuplicateDetectionHistoryTimeWindow", duration.format_duration(rules.duplicate_detection_seconds)),
        ("MaxDeliveryCount", str(rules.max_delivery_count)),
        ("EnableBatchedOperations", _bool(rules.batched_operations)),
        ("SizeInBytes", str(queue.size_bytes())),
        ("MessageCount", str(sum(counts.values()) + queue.counts()["deferred"])),
        ("IsAnonymousAccessible", "false"),
    ]
    since: list[tuple[str, str | None]] = [
        ("Status", rules.status.value),
        ("ForwardTo", _address(host, rules.forward_to)),
        ("UserMetadata", rules.user_metadata or None),
        ("CreatedAt", created),
        ("UpdatedAt", updated),
        ("AccessedAt", _last_used(queue) if at_work else None),
        ("SupportOrdering", "true"),
    ]
    more: list[tuple[str, str | None]] = [
        ("AutoDeleteOnIdle", duration.format_duration(rules.auto_delete_seconds)),
        ("EnablePartitioning", _bool(rules.partitioning)),
        ("ForwardDeadLetteredMessagesTo", _address(host, rules.forward_dead_letters_to)),
        ("EntityAvailabilityStatus", "Available"),
        ("EnableExpress", _bool(rules.express)),
        (_SIZE, str(rules.max_message_bytes // 1024) if _tells_size(api_version) else None),
    ]
    keys = authorization.told(rules.policies, created=created, updated=updated)
    details = _count_details(counts) if at_work else ""
    inner = _texts(told) + keys + _texts(since) + details + _texts(more)
    return tag("QueueDescription", inner, {"xmlns": CONNECT, "xmlns:i": INSTANCE})


def bad(name: str, what: str) -> ServiceBusError:
    """A property is wrong."""
    return ServiceBusError(ARGUMENT_ERROR, f"{name}: {what}.")


class _Values:
    """Reads properties, each by its type."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def text(self, name: str) -> str:
        value = self._given.get(name, "")
        if len(value) > MAX_METADATA_CHARACTERS:
            raise bad(name, f"must be a text of at most {MAX_METADATA_CHARACTERS} characters")
        return value

    def queue(self, name: str) -> str | None:
        """SDKs write a URL, whatever its host."""
        value = self.text(name)
        return (urlsplit(value).path if "://" in value else value).strip("/") or None

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._given.get(name)
        if value is None:
            return default
        if value.lower() not in ("true", "false"):
            raise bad(name, f"'{value}' must be true or false")
        return value.lower() == "true"

    def fixed(self, name: str, before: bool | None) -> bool:
        value = self.flag(name, default=bool(before))
        if before is not None and value != before:
            raise bad(name, "cannot be changed once a queue is made")
        return value

    def whole(self, name: str, default: int, *, most: int) -> int:
        value = self._given.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= most):
            raise bad(name, f"'{value}' must be a whole number from 1 to {most}")
        return int(value)

    def seconds(self, name: str, default: float, *, least: float = 0.0, most: float = MAX_SECONDS) -> float:
        value = self._given.get(name)
        if value is None:
            return default
        try:
            seconds = duration.parse_duration(value)
        except ValueError as error:
            raise bad(name, f"'{value}' {error}") from None
        if not seconds > 0 or seconds < least:
            raise bad(
                name, f"'{value}' must be at least {duration.format_duration(least)}" if least else "must not be 0"
            )
        if seconds > most:
            raise bad(name, f"'{value}' must be at most {duration.format_duration(most)}")
        return seconds

    def status(self) -> QueueStatus:
        value = self._given.get("Status", QueueStatus.ACTIVE)
        try:
            return QueueStatus(value)
        except ValueError:
            raise bad("Status", f"'{value}' must be one of {', '.join(QueueStatus)}") from None


def _counts(queue: Queue) -> dict[str, int]:
    counts, transfer = queue.counts(), queue.transfer_dead_letters
    return {
        "Active": counts["active"],
        "DeadLetter": counts["dead_lettered"],
        "Scheduled": counts["scheduled"],
        "Transfer": 0,  # what can be forwarded is, at once
        "TransferDeadLetter": 0 if transfer is None else transfer.message_count(),
    }


def _count_details(counts: Mapping[str, int]) -> str:
    inner = "".join(text(f"d2p1:{name}MessageCount", str(count)) for name, count in counts.items())
    return tag("CountDetails", inner, {"xmlns:d2p1": _COUNTS})


def _texts(values: list[tuple[str, str | None]]) -> str:
    return "".join(text(name, value) for name, value in values if value is not None)


def _last_used(queue: Queue) -> str:
    return (
        duration.MIN_TIMESTAMP
        if queue.accessed_at == queue.created_at
        else duration.format_timestamp(queue.accessed_at)
    )


def _address(host: str, target: str | None) -> str | None:
    return None if target is None else f"sb://{host}/{target}"


def _tells_size(api_version: str | None) -> bool:
    return api_version is None or api_version >= _SIZED_SINCE


def _bool(value: bool) -> str:
    return "true" if value else "false"
