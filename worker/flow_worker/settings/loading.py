"""Reads settings from the environment, `.env` and a TOML file, and reports every fault at once with its remedy."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

PREFIX = "FLOW_WORKER_"
CONFIG_VARIABLE = "FLOW_WORKER_CONFIG"
DEFAULT_CONFIG = Path("flow-worker.toml")
_OTHER_VARIABLES = {CONFIG_VARIABLE, "FLOW_WORKER_CLAIM", "FLOW_WORKER_REPLY_KEY"}
"""Variables with the prefix that are not settings."""
_MESSAGES = {
    "dict_type": "must be a table",
    "extra_forbidden": "no such setting; docs/reference/settings.md lists all settings",
    "model_type": "must be a table",
    "missing": "required",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}
_MAX_SHOWN_CHARACTERS = 20
"""A longer value can be a secret in the wrong place, so messages do not repeat it."""


class InvalidSettings(Exception):
    """The settings are invalid. The message has one line for each fault: field, value found, values allowed, remedy."""


class Layered(BaseSettings):
    """Settings read from the environment, then a `.env` file, then the TOML file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file_encoding="utf-8-sig",  # editors on Windows write a byte order mark
        extra="ignore",  # `load_checked` refuses unknown names with a better message
        frozen=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)


_S = TypeVar("_S", bound=Layered)


def load_checked(kind: type[_S], config: Path | None, env_file: Path, known: set[str]) -> _S:
    """Read and check the settings that `kind` declares; `known` holds the top-level names of all settings.

    `config` is the TOML file; default: `$FLOW_WORKER_CONFIG`, then `flow-worker.toml` in the working directory.
    Raises `InvalidSettings`, which names every fault at once.
    """
    explicit = config or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if explicit and not explicit.is_file():
        raise InvalidSettings(f"{explicit}: no such file; name the TOML file with --config or {CONFIG_VARIABLE}")
    path = explicit or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    _refuse_unknown(path, known)
    # pydantic-settings takes the TOML file from the class alone, so each call makes a subclass with its own file.
    with_file = type(kind.__name__, (kind,), {"__module__": kind.__module__, "model_config": {"toml_file": path}})
    try:
        loaded: _S = with_file(_env_file=env_file)
        return loaded
    except ValidationError as error:
        raise InvalidSettings("\n".join(_fault_lines(error))) from None
    except SettingsError as error:
        raise InvalidSettings(_not_json(error)) from None
    except UnicodeDecodeError:
        raise InvalidSettings(f"{env_file}: not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InvalidSettings(f"{env_file}: cannot be read: {error.strerror}") from None


def _refuse_unknown(path: Path | None, known: set[str]) -> None:
    """Refuse a misspelt name: it would silently leave the default in force."""
    faults = [
        f"{name}: no such setting; known after {PREFIX}: {', '.join(sorted(known)).upper()}"
        for name in os.environ
        if name.startswith(PREFIX)
        and name not in _OTHER_VARIABLES
        and name.removeprefix(PREFIX).split("__")[0].lower() not in known
    ]
    if path:
        table = _table(path)
        faults += [
            f"{path}: {name}: no such setting; known: {', '.join(sorted(known))}" for name in table if name not in known
        ]
    if faults:
        raise InvalidSettings("\n".join(faults))


def _table(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise InvalidSettings(f"{path}: not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        marked = path.read_bytes().startswith(b"\xef\xbb\xbf")
        reason = "it begins with a byte order mark; save it as UTF-8 without one" if marked else str(error)
        raise InvalidSettings(f"{path}: not valid TOML: {reason}") from None
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot be read: {error.strerror}") from None


def _not_json(error: SettingsError) -> str:
    """Translate the error of pydantic-settings, which names a field and a source class, into the variable's name."""
    found = re.search(r'field "(\w+)"', str(error))
    variable = PREFIX + (found[1].upper() if found else "…")
    return f'{variable} or {variable}__…: not JSON; write lists and tables in variables as JSON, such as \'["a", "b"]\''


def _fault_lines(error: ValidationError) -> list[str]:
    faults = error.errors()
    return [_fault_line(fault) for fault in faults if not _is_consequence(fault, faults)]


def _is_consequence(fault: ErrorDetails, faults: Sequence[ErrorDetails]) -> bool:
    """Return whether another fault causes this one: pydantic drops invalid items and then calls the list too short."""
    place = fault["loc"]
    return fault["type"] == "too_short" and any(
        other["loc"][: len(place)] == place for other in faults if other["loc"] != place
    )


def _fault_line(fault: ErrorDetails) -> str:
    location, kind = fault["loc"], fault["type"]
    field = ".".join(str(part) for part in location)
    text = _MESSAGES.get(kind) or fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if not field:
        return text
    if kind == "extra_forbidden":
        return f"{field}: {text}"
    return f"{field}: {text}{_found(fault)}; set {_variable(location)} or {field} in the TOML file"


def _found(fault: ErrorDetails) -> str:
    """Return the value found, unless the message already covers it or it can be a secret."""
    value = fault["input"]
    is_covered = fault["type"] in {*_MESSAGES, "value_error"} or not isinstance(value, str | int | float)
    return "" if is_covered or len(str(value)) > _MAX_SHOWN_CHARACTERS else f", not {value!r}"


def _variable(location: tuple[str | int, ...]) -> str:
    """Return the variable that sets the field.

    A variable cannot address an item of a list, and a flow's name can hold characters that a variable's cannot.
    """
    whole = next((at for at, part in enumerate(location) if isinstance(part, int)), len(location))
    path = location[:1] if location[0] == "flows" else location[:whole]
    return PREFIX + "__".join(str(part) for part in path).upper() + (" (as JSON)" if len(path) < len(location) else "")
