"""Typed reading of the arguments of a `$management` request."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TypeVar

from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, ServiceBusError

_T = TypeVar("_T")


class Arguments:
    """The body of a request. Every method raises `ServiceBusError` (argument-error) for a value of another type.

    Integers of every width are accepted, because the documentation and the SDKs disagree about the width.
    """

    def __init__(self, values: Mapping[object, object]) -> None:
        self._values = {str(key): value for key, value in values.items()}

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an integer. Without a default, it is required."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ServiceBusError(ARGUMENT_ERROR, f"'{name}' must be a whole number")
        return int(value)

    def boolean(self, name: str) -> bool:
        """Return a boolean, False if it is missing."""
        return bool(self._optional(name, bool))

    def moment(self, name: str) -> float:
        """Return a timestamp in seconds since the epoch."""
        return self.integer(name) / 1000

    def text(self, name: str) -> str | None:
        """Return a string, None if it is missing."""
        return self._optional(name, str)

    def binary(self, name: str) -> bytes | None:
        """Return bytes, None if they are missing."""
        return self._optional(name, bytes)

    def map(self, name: str) -> Mapping[str, object]:
        """Return a map, an empty one if it is missing."""
        return {str(key): value for key, value in (self._optional(name, dict) or {}).items()}

    def integers(self, name: str) -> list[int]:
        """Return a required list of integers."""
        return [int(number) for number in self._items(name, int)]

    def uuids(self, name: str) -> list[uuid.UUID]:
        """Return a required list of UUIDs."""
        return self._items(name, uuid.UUID)

    def maps(self, name: str) -> list[dict[object, object]]:
        """Return a required list of maps."""
        return self._items(name, dict)

    def _optional(self, name: str, kind: type[_T]) -> _T | None:
        value = self._values.get(name)
        if value is None or isinstance(value, kind):
            return value
        raise ServiceBusError(ARGUMENT_ERROR, f"'{name}' must be a {kind.__name__}")

    def _items(self, name: str, kind: type[_T]) -> list[_T]:
        values = self._values.get(name)
        if not isinstance(values, list | tuple) or not all(isinstance(value, kind) for value in values):
            raise ServiceBusError(ARGUMENT_ERROR, f"'{name}' must be a list of {kind.__name__}")
        return list(values)
