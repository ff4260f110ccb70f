"""`QueueDescription`: the settings and the runtime properties of a queue as XML.

Output has the elements in the service's order; input may have them in any order.
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
_MIN_AUTO_DELETE_SECONDS = 300.0
_SIZE = "MaxMessageSizeInKilobytes"
_SIZE_API_VERSION = "2021-05"
"""The first API version with that property."""
_WRITABLE = (
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
_READ_ONLY = frozenset(
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
"""Clients send these properties back as they received them. They are ignored."""
_RULES = "AuthorizationRules"


def _fields(element: ElementTree.Element) -> dict[str, str]:
    """Return the writable properties of a `QueueDescription` as text. Raises `ServiceBusError`, naming the property."""
    kind = element.tag.rpartition("}")[2]
    if kind in ("TopicDescription", "SubscriptionDescription", "RuleDescription"):
        raise ServiceBusError(NOT_IMPLEMENTED, f"{kind}: there are only queues here, no topics; use a queue.")
    if element.tag != f"{{{CONNECT}}}QueueDescription":
        raise ServiceBusError(ARGUMENT_ERROR, f"The content must be a QueueDescription in the namespace {CONNECT}.")
    properties: dict[str, str] = {}
    for child in element:
        name = child.tag.rpartition("}")[2]
        if child.tag != f"{{{CONNECT}}}{name}" or not (name in _WRITABLE or name in _READ_ONLY or name == _RULES):
            raise _invalid(name, f"there is no such property; known: {', '.join(sorted((*_WRITABLE, _RULES)))}")
        if name in properties:
            raise _invalid(name, "is there twice")
        if name in _WRITABLE and child.get(f"{{{INSTANCE}}}nil") != "true":
            properties[name] = (child.text or "").strip()
    return properties


def _policies(element: ElementTree.Element, name: str, before: QueueSettings | None) -> tuple[Policy, ...]:
    """Return the shared access policies of a description; those of `before` if it has no rules."""
    rules = element.find(f"{{{CONNECT}}}{_RULES}")
    if rules is None:
        return () if before is None else before.policies
    return authorization.read_rules(rules, name)


def read_settings(
    name: str, description: ElementTree.Element, before: QueueSettings | None, *, api_version: str | None
) -> QueueSettings:
    """Return the settings in a `QueueDescription`. Raises `ServiceBusError`, naming the property.

    A missing property has its default, also in an update: the service replaces the whole description. A property that
    cannot change keeps its value from `before`.
    """
    given = _fields(description)
    if _SIZE in given and not _has_size(api_version):
        raise _invalid(_SIZE, f"there is no such property in API version {api_version}, only since {_SIZE_API_VERSION}")
    values = _Values(given)
    return QueueSettings(
        name=name if before is None else before.name,
        lock_seconds=values.seconds("LockDuration", 60.0, maximum=MAX_LOCK_SECONDS),
        max_delivery_count=values.whole("MaxDeliveryCount", 10, maximum=2000),
        requires_session=values.fixed("RequiresSession", None if before is None else before.requires_session),
        requires_duplicate_detection=values.fixed(
            "RequiresDuplicateDetection", None if before is None else before.requires_duplicate_detection
        ),
        duplicate_detection_seconds=values.seconds("DuplicateDetectionHistoryTimeWindow", 600.0, maximum=7 * 86_400),
        default_ttl_seconds=values.seconds("DefaultMessageTimeToLive", MAX_SECONDS),
        dead_letter_on_expiration=values.flag("DeadLetteringOnMessageExpiration", default=False),
        max_message_bytes=values.whole(_SIZE, 256, maximum=100 * 1024) * 1024,
        max_size_mb=values.whole("MaxSizeInMegabytes", 1024, maximum=81_920),
        status=values.status(),
        forward_to=values.queue("ForwardTo"),
        forward_dead_letters_to=values.queue("ForwardDeadLetteredMessagesTo"),
        auto_delete_seconds=values.seconds("AutoDeleteOnIdle", MAX_SECONDS, minimum=_MIN_AUTO_DELETE_SECONDS),
        user_metadata=values.text("UserMetadata"),
        batched_operations=values.flag("EnableBatchedOperations", default=True),
        partitioning=values.fixed("EnablePartitioning", None if before is None else before.partitioning),
        express=values.flag("EnableExpress", default=False),
        renumber_dead_letters=before is not None and before.renumber_dead_letters,
        policies=_policies(description, name, before),
    )


def describe(queue: Queue, *, api_version: str | None, host: str, runtime: bool) -> str:
    """Return a `QueueDescription`. `runtime` adds the counts and the last use. `host` is the host of the namespace."""
    rules, counts = queue.settings, _counts(queue)
    created, updated = duration.format_timestamp(queue.created_at), duration.format_timestamp(queue.updated_at)
    first: list[tuple[str, str | None]] = [
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
    middle: list[tuple[str, str | None]] = [
        ("Status", rules.status.value),
        ("ForwardTo", _address(host, rules.forward_to)),
        ("UserMetadata", rules.user_metadata or None),
        ("CreatedAt", created),
        ("UpdatedAt", updated),
        ("AccessedAt", _last_used(queue) if runtime else None),
        ("SupportOrdering", "true"),
    ]
    last: list[tuple[str, str | None]] = [
        ("AutoDeleteOnIdle", duration.format_duration(rules.auto_delete_seconds)),
        ("EnablePartitioning", _bool(rules.partitioning)),
        ("ForwardDeadLetteredMessagesTo", _address(host, rules.forward_dead_letters_to)),
        ("EntityAvailabilityStatus", "Available"),
        ("EnableExpress", _bool(rules.express)),
        (_SIZE, str(rules.max_message_bytes // 1024) if _has_size(api_version) else None),
    ]
    keys = authorization.write_rules(rules.policies, created=created, updated=updated)
    details = _count_details(counts) if runtime else ""
    inner = _texts(first) + keys + _texts(middle) + details + _texts(last)
    return tag("QueueDescription", inner, {"xmlns": CONNECT, "xmlns:i": INSTANCE})


def _invalid(name: str, fault: str) -> ServiceBusError:
    return ServiceBusError(ARGUMENT_ERROR, f"{name}: {fault}.")


class _Values:
    """Reads properties by name and type."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def text(self, name: str) -> str:
        value = self._given.get(name, "")
        if len(value) > MAX_METADATA_CHARACTERS:
            raise _invalid(name, f"must be a text of at most {MAX_METADATA_CHARACTERS} characters")
        return value

    def queue(self, name: str) -> str | None:
        """Read the name of a queue. SDKs write a URL with any host."""
        value = self.text(name)
        return (urlsplit(value).path if "://" in value else value).strip("/") or None

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._given.get(name)
        if value is None:
            return default
        if value.lower() not in ("true", "false"):
            raise _invalid(name, f"'{value}' must be true or false")
        return value.lower() == "true"

    def fixed(self, name: str, before: bool | None) -> bool:
        value = self.flag(name, default=bool(before))
        if before is not None and value != before:
            raise _invalid(name, "cannot be changed once a queue is made")
        return value

    def whole(self, name: str, default: int, *, maximum: int) -> int:
        value = self._given.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= maximum):
            raise _invalid(name, f"'{value}' must be a whole number from 1 to {maximum}")
        return int(value)

    def seconds(self, name: str, default: float, *, minimum: float = 0.0, maximum: float = MAX_SECONDS) -> float:
        value = self._given.get(name)
        if value is None:
            return default
        try:
            seconds = duration.parse_duration(value)
        except ValueError as error:
            raise _invalid(name, f"'{value}' {error}") from None
        if not seconds > 0 or seconds < minimum:
            raise _invalid(
                name, f"'{value}' must be at least {duration.format_duration(minimum)}" if minimum else "must not be 0"
            )
        if seconds > maximum:
            raise _invalid(name, f"'{value}' must be at most {duration.format_duration(maximum)}")
        return seconds

    def status(self) -> QueueStatus:
        value = self._given.get("Status", QueueStatus.ACTIVE)
        try:
            return QueueStatus(value)
        except ValueError:
            raise _invalid("Status", f"'{value}' must be one of {', '.join(QueueStatus)}") from None


def _counts(queue: Queue) -> dict[str, int]:
    counts, transfer = queue.counts(), queue.transfer_dead_letters
    return {
        "Active": counts["active"],
        "DeadLetter": counts["dead_lettered"],
        "Scheduled": counts["scheduled"],
        "Transfer": 0,  # the emulator forwards at once
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


def _has_size(api_version: str | None) -> bool:
    return api_version is None or api_version >= _SIZE_API_VERSION


def _bool(value: bool) -> str:
    return "true" if value else "false"
