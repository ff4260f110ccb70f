"""Queues from a file in the official emulator's `config.json` format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from servicebus_emulator.servicebus import duration

if TYPE_CHECKING:
    from servicebus_emulator.servicebus.access.policies import Policy

MAX_HOPS = 4
MAX_LOCK_SECONDS = 300.0
MAX_NAME_CHARACTERS = 260
MAX_TEXT_CHARACTERS = 1024
NEVER_SECONDS = duration.NEVER_SECONDS


class ConfigError(ValueError):
    """The configuration does not hold: `path` says where in the file, the message what to write instead."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class Status(StrEnum):
    """What a queue may be used for, in the service's words."""

    ACTIVE = "Active"
    DISABLED = "Disabled"
    SEND_DISABLED = "SendDisabled"
    RECEIVE_DISABLED = "ReceiveDisabled"

    @property
    def takes(self) -> bool:
        """Whether messages may be sent to it."""
        return self in (Status.ACTIVE, Status.RECEIVE_DISABLED)

    @property
    def gives(self) -> bool:
        """Whether messages may be received from it."""
        return self in (Status.ACTIVE, Status.SEND_DISABLED)


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """One queue's rules. Times in seconds; the defaults are the service's."""

    name: str
    lock_seconds: float = 60.0
    max_delivery_count: int = 10
    requires_session: bool = False
    requires_duplicate_detection: bool = False
    duplicate_detection_seconds: float = 600.0
    default_ttl_seconds: float = NEVER_SECONDS
    dead_letter_on_expiration: bool = False
    max_message_bytes: int = 262_144
    max_size_mb: int = 1024
    status: Status = Status.ACTIVE
    forward_to: str | None = None
    forward_dead_letters_to: str | None = None
    auto_delete_seconds: float = NEVER_SECONDS
    """Deleted when nobody has used it for so long."""
    user_metadata: str = ""
    batched_operations: bool = True
    partitioning: bool = False
    express: bool = False
    """These three are kept and shown, and mean nothing here."""
    policies: tuple[Policy, ...] = ()
    """Its own; those of the namespace count for every queue."""


def parse_entities(document: Mapping[str, object]) -> tuple[QueueSettings, ...]:
    """The queues of `UserConfig.Namespaces[]`. Raises `ConfigError`."""
    user_config = _mapping(document.get("UserConfig"), "UserConfig")
    queues: list[QueueSettings] = []
    namespaces = _list(user_config.get("Namespaces"), "UserConfig.Namespaces")
    if len(namespaces) > 1:
        raise ConfigError("UserConfig.Namespaces", f"there are {len(namespaces)}; put all queues into one namespace")
    for number, namespace in enumerate(namespaces):
        path = f"UserConfig.Namespaces[{number}]"
        entry = _mapping(namespace, path)
        if entry.get("Topics"):
            raise ConfigError(f"{path}.Topics", "topics are not supported; use queues")
        for index, queue in enumerate(_list(entry.get("Queues", []), f"{path}.Queues")):
            queues.append(_queue(queue, f"{path}.Queues[{index}]"))
    names = [queue.name.lower() for queue in queues]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("UserConfig.Namespaces", f"there are two queues named '{name}'; names ignore case")
    for queue in queues:
        try:
            _check_chain(queue, {one.name.lower(): one for one in queues})
        except ValueError as error:
            raise ConfigError("UserConfig.Namespaces", str(error)) from None
    return tuple(queues)


def check_forwarding(queue: QueueSettings, others: Mapping[str, QueueSettings]) -> None:
    """Raises `ValueError` unless what it forwards has somewhere to go. `others` by name in lower case.

    The service takes a queue that forwards to itself, and one with sessions that forwards, as the live tests of
    azure-servicebus 7.15's administration client show.
    """
    for target in (queue.forward_to, queue.forward_dead_letters_to):
        if target is not None and target.lower() not in others:
            raise ValueError(f"queue '{queue.name}' forwards to '{target}', which is no queue")


def _check_chain(queue: QueueSettings, others: Mapping[str, QueueSettings]) -> None:
    """The same, and that a message comes to the end of the chain: in a configuration anything else is a mistake.

    So is forwarding from a queue with sessions, which Microsoft Learn ("Chaining Service Bus entities with
    autoforwarding") says is not supported.
    """
    check_forwarding(queue, others)
    if queue.forward_to is not None and queue.requires_session:
        raise ValueError(f"queue '{queue.name}' requires sessions, so it cannot forward; take out ForwardTo")
    for target in (queue.forward_to, queue.forward_dead_letters_to):
        hops, at = 0, target
        while at is not None and at.lower() in others:
            if at.lower() == queue.name.lower():
                raise ValueError(f"queue '{queue.name}' forwards to itself")
            hops, at = hops + 1, others[at.lower()].forward_to
            if hops > MAX_HOPS:
                raise ValueError(f"queue '{queue.name}' forwards over more than {MAX_HOPS} queues, or in a circle")


def _queue(value: object, path: str) -> QueueSettings:
    entry = _mapping(value, path)
    _only(entry, {"AuthorizationRules", "Name", "Properties"}, path)  # the first: see `policies`
    name = entry.get("Name")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise ConfigError(f"{path}.Name", f"must be a text of 1 to {MAX_NAME_CHARACTERS} characters")
    return _Properties(_mapping(entry.get("Properties", {}), f"{path}.Properties"), f"{path}.Properties").settings(name)


class _Properties:
    """Reads a queue's `Properties`, each by its type."""

    _KNOWN = frozenset(
        {
            "AutoDeleteOnIdle",
            "DeadLetteringOnMessageExpiration",
            "DefaultMessageTimeToLive",
            "DuplicateDetectionHistoryTimeWindow",
            "ForwardDeadLetteredMessagesTo",
            "ForwardTo",
            "LockDuration",
            "MaxDeliveryCount",
            "MaxMessageSizeInKilobytes",
            "MaxSizeInMegabytes",
            "RequiresDuplicateDetection",
            "RequiresSession",
            "Status",
            "UserMetadata",
        }
    )

    def __init__(self, values: Mapping[str, object], path: str) -> None:
        _only(values, self._KNOWN, path)
        self._values = values
        self._path = path

    def settings(self, name: str) -> QueueSettings:
        return QueueSettings(
            name=name,
            lock_seconds=self._seconds("LockDuration", 60.0, most=MAX_LOCK_SECONDS),
            max_delivery_count=self._whole("MaxDeliveryCount", 10, most=2000),
            requires_session=self._flag("RequiresSession"),
            requires_duplicate_detection=self._flag("RequiresDuplicateDetection"),
            duplicate_detection_seconds=self._seconds("DuplicateDetectionHistoryTimeWindow", 600.0, most=7 * 86_400),
            default_ttl_seconds=self._seconds("DefaultMessageTimeToLive", NEVER_SECONDS),
            dead_letter_on_expiration=self._flag("DeadLetteringOnMessageExpiration"),
            max_message_bytes=self._whole("MaxMessageSizeInKilobytes", 256, most=100 * 1024) * 1024,
            max_size_mb=self._whole("MaxSizeInMegabytes", 1024, most=81_920),
            status=self._status(),
            forward_to=self._text("ForwardTo") or None,
            forward_dead_letters_to=self._text("ForwardDeadLetteredMessagesTo") or None,
            auto_delete_seconds=self._seconds("AutoDeleteOnIdle", NEVER_SECONDS),
            user_metadata=self._text("UserMetadata"),
        )

    def _status(self) -> Status:
        value = self._values.get("Status", Status.ACTIVE)
        try:
            return Status(str(value))
        except ValueError:
            raise ConfigError(f"{self._path}.Status", f"must be one of {', '.join(Status)}") from None

    def _text(self, name: str) -> str:
        value = self._values.get(name) or ""
        if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
            raise ConfigError(f"{self._path}.{name}", f"must be a text of at most {MAX_TEXT_CHARACTERS} characters")
        return value

    def _flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self._path}.{name}", "must be true or false")
        return value

    def _whole(self, name: str, default: int, *, most: int) -> int:
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ConfigError(f"{self._path}.{name}", f"must be a whole number from 1 to {most}")
        return value

    def _seconds(self, name: str, default: float, *, most: float = NEVER_SECONDS) -> float:
        value = self._values.get(name)
        if value is None or value == "":
            return default
        path = f"{self._path}.{name}"
        try:
            seconds = duration.to_seconds(value if isinstance(value, str) else "")
        except ValueError as error:
            raise ConfigError(path, str(error)) from None
        if not seconds > 0:
            raise ConfigError(path, "must be longer than nothing")
        if seconds > most and most < NEVER_SECONDS:
            raise ConfigError(path, f"must be {most:g} seconds at most")
        return seconds


def _mapping(value: object, path: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(path, "must be a JSON object")
    return value


def _list(value: object, path: str) -> list[object]:
    if not isinstance(value, list):
        raise ConfigError(path, "must be a JSON array")
    return value


def _only(values: Mapping[str, object], known: frozenset[str] | set[str], path: str) -> None:
    for name in values:
        if name not in known:
            raise ConfigError(f"{path}.{name}", f"no such property; known: {', '.join(sorted(known))}")
