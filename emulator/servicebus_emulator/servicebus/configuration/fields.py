"""Typed reading of a configuration's JSON values; each error names the place in the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class ConfigError(ValueError):
    """The configuration is invalid. `path` is the place in the file; the message says what to write there."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


def as_object(value: object, path: str) -> Mapping[str, object]:
    """Return a JSON object. Raises `ConfigError` for any other value."""
    if not isinstance(value, Mapping):
        raise ConfigError(path, "must be a JSON object")
    return value


def as_array(value: object, path: str) -> list[object]:
    """Return a JSON array. Raises `ConfigError` for any other value."""
    if not isinstance(value, list):
        raise ConfigError(path, "must be a JSON array")
    return value


def require_known(values: Mapping[str, object], known: Iterable[str], path: str) -> None:
    """Raise `ConfigError` for the first property that is not among the known ones."""
    names = list(known)
    for name in values:
        if name not in names:
            raise ConfigError(f"{path}.{name}", f"no such property; known: {', '.join(names)}")
