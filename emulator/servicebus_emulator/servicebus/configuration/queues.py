"""Parses the queues of the official emulator's `config.json` (`UserConfig.Namespaces[].Queues[]`)."""

from __future__ import annotations

from collections.abc import Mapping

from servicebus_emulator.servicebus.configuration.fields import ConfigError, as_array, as_object, require_known
from servicebus_emulator.servicebus.duration import MAX_SECONDS, parse_duration
from servicebus_emulator.servicebus.entities.queue_settings import (
    MAX_LOCK_SECONDS,
    MAX_METADATA_CHARACTERS,
    MAX_NAME_CHARACTERS,
    QueueSettings,
    QueueStatus,
    check_forwarding_chain,
)

_MAX_DELIVERY_COUNT = 2000
_MAX_DUPLICATE_DETECTION_SECONDS = 7 * 86_400
_MAX_MESSAGE_KILOBYTES = 100 * 1024
_MAX_SIZE_MB = 81_920
_NAMESPACES = "UserConfig.Namespaces"


def parse_queues(document: Mapping[str, object]) -> tuple[QueueSettings, ...]:
    """Return the settings of all queues. Raises `ConfigError` for an invalid document."""
    user_config = as_object(document.get("UserConfig"), "UserConfig")
    namespaces = as_array(user_config.get("Namespaces"), _NAMESPACES)
    if len(namespaces) > 1:
        raise ConfigError(_NAMESPACES, f"there are {len(namespaces)}; put all queues into one namespace")
    queues: list[QueueSettings] = []
    for number, namespace in enumerate(namespaces):
        queues += _namespace_queues(namespace, f"{_NAMESPACES}[{number}]")
    _require_distinct_names(queues)
    _require_forwarding_chains(queues)
    return tuple(queues)


def _namespace_queues(namespace: object, path: str) -> list[QueueSettings]:
    entry = as_object(namespace, path)
    if entry.get("Topics"):
        raise ConfigError(f"{path}.Topics", "topics are not supported; use queues")
    queues = as_array(entry.get("Queues", []), f"{path}.Queues")
    return [_queue(queue, f"{path}.Queues[{index}]") for index, queue in enumerate(queues)]


def _require_distinct_names(queues: list[QueueSettings]) -> None:
    names = [queue.name.lower() for queue in queues]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(_NAMESPACES, f"there are two queues named '{name}'; names ignore case")


def _require_forwarding_chains(queues: list[QueueSettings]) -> None:
    by_name = {queue.name.lower(): queue for queue in queues}
    for queue in queues:
        try:
            check_forwarding_chain(queue, by_name)
        except ValueError as error:
            raise ConfigError(_NAMESPACES, str(error)) from None


def _queue(value: object, path: str) -> QueueSettings:
    entry = as_object(value, path)
    require_known(entry, ("AuthorizationRules", "Name", "Properties"), path)  # `policies` parses AuthorizationRules
    name = entry.get("Name")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise ConfigError(f"{path}.Name", f"must be a text of 1 to {MAX_NAME_CHARACTERS} characters")
    properties = as_object(entry.get("Properties", {}), f"{path}.Properties")
    return _Properties(properties, f"{path}.Properties").settings(name)


class _Properties:
    """Reads a queue's `Properties`, each by its type."""

    _KNOWN = (
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
        "RenumberDeadLetters",
        "RequiresDuplicateDetection",
        "RequiresSession",
        "Status",
        "UserMetadata",
    )

    def __init__(self, values: Mapping[str, object], path: str) -> None:
        require_known(values, self._KNOWN, path)
        self._values = values
        self._path = path

    def settings(self, name: str) -> QueueSettings:
        return QueueSettings(
            name=name,
            lock_seconds=self._seconds("LockDuration", 60.0, maximum=MAX_LOCK_SECONDS),
            max_delivery_count=self._integer("MaxDeliveryCount", 10, maximum=_MAX_DELIVERY_COUNT),
            requires_session=self._boolean("RequiresSession"),
            requires_duplicate_detection=self._boolean("RequiresDuplicateDetection"),
            duplicate_detection_seconds=self._seconds(
                "DuplicateDetectionHistoryTimeWindow", 600.0, maximum=_MAX_DUPLICATE_DETECTION_SECONDS
            ),
            default_ttl_seconds=self._seconds("DefaultMessageTimeToLive", MAX_SECONDS),
            dead_letter_on_expiration=self._boolean("DeadLetteringOnMessageExpiration"),
            max_message_bytes=self._integer("MaxMessageSizeInKilobytes", 256, maximum=_MAX_MESSAGE_KILOBYTES) * 1024,
            max_size_mb=self._integer("MaxSizeInMegabytes", 1024, maximum=_MAX_SIZE_MB),
            status=self._status(),
            forward_to=self._text("ForwardTo") or None,
            forward_dead_letters_to=self._text("ForwardDeadLetteredMessagesTo") or None,
            auto_delete_seconds=self._seconds("AutoDeleteOnIdle", MAX_SECONDS),
            user_metadata=self._text("UserMetadata"),
            renumber_dead_letters=self._boolean("RenumberDeadLetters"),
        )

    def _status(self) -> QueueStatus:
        value = self._values.get("Status", QueueStatus.ACTIVE)
        try:
            return QueueStatus(str(value))
        except ValueError:
            raise ConfigError(f"{self._path}.Status", f"must be one of {', '.join(QueueStatus)}") from None

    def _text(self, name: str) -> str:
        value = self._values.get(name) or ""
        if not isinstance(value, str) or len(value) > MAX_METADATA_CHARACTERS:
            raise ConfigError(f"{self._path}.{name}", f"must be a text of at most {MAX_METADATA_CHARACTERS} characters")
        return value

    def _boolean(self, name: str) -> bool:
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self._path}.{name}", "must be true or false")
        return value

    def _integer(self, name: str, default: int, *, maximum: int) -> int:
        value = self._values.get(name, default)
        # Python's bool is an int: without this check, `true` would be read as 1.
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
            raise ConfigError(f"{self._path}.{name}", f"must be a whole number from 1 to {maximum}")
        return value

    def _seconds(self, name: str, default: float, *, maximum: float = MAX_SECONDS) -> float:
        value = self._values.get(name)
        if value is None or value == "":
            return default
        path = f"{self._path}.{name}"
        try:
            seconds = parse_duration(value if isinstance(value, str) else "")
        except ValueError as error:
            raise ConfigError(path, str(error)) from None
        if not seconds > 0:
            raise ConfigError(path, "must be longer than zero")
        if seconds > maximum and maximum < MAX_SECONDS:
            raise ConfigError(path, f"must be {maximum:g} seconds at most")
        return seconds
