"""Where settings come from: environment, `.env`, a TOML file; every fault told at once, with its remedy."""

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
_READ_BY_OTHERS = {CONFIG_VARIABLE, "FLOW_WORKER_CLAIM"}
_PLAIN_WORDS = {
    "dict_type": "must be a table",
    "extra_forbidden": "no such setting; see docs/reference/settings.md for those there are",
    "model_type": "must be a table",
    "missing": "required",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}
_SHOWN_LENGTH = 20  # what is longer may be a secret that was put into the wrong place


class InvalidSettings(Exception):
    """The settings do not hold. One line for each fault: which field, what is wrong, what to do."""


class Layered(BaseSettings):
    """Settings read from the environment, then a `.env` file, then the TOML file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file_encoding="utf-8-sig",  # Windows' editors write a byte order mark
        extra="ignore",  # unknown names are refused in `load_as`, where the message can say more
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


def load_as(kind: type[_S], config: Path | None, env_file: Path, known: set[str]) -> _S:
    """Read and check settings; `known` are the top-level names that may be there.

    `config` is the TOML file; default: `$FLOW_WORKER_CONFIG`, then `flow-worker.toml` here if there is one.
    Raises `InvalidSettings` naming every fault at once.
    """
    named = config or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named and not named.is_file():
        raise InvalidSettings(f"{named}: no such file; give the TOML file by --config or {CONFIG_VARIABLE}")
    path = named or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    _refuse_unknown(path, known)
    bound = type(kind.__name__, (kind,), {"__module__": kind.__module__, "model_config": {"toml_file": path}})
    try:
        loaded: _S = bound(_env_file=env_file)
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
    """A misspelt name would silently leave a default in force, so it is refused."""
    faults = [
        f"{name}: no such setting; known after {PREFIX}: {', '.join(sorted(known)).upper()}"
        for name in os.environ
        if name.startswith(PREFIX)
        and name not in _READ_BY_OTHERS
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
    """pydantic-settings names the top-level setting and its own source; people know the variable."""
    found = re.search(r'field "(\w+)"', str(error))
    variable = PREFIX + (found[1].upper() if found else "…")
    return f'{variable} or {variable}__…: not JSON; in variables lists and tables are JSON, such as \'["a", "b"]\''


def _fault_lines(error: ValidationError) -> list[str]:
    faults = error.errors()
    return [_fault_line(fault) for fault in faults if not _follows(fault, faults)]


def _follows(fault: ErrorDetails, faults: Sequence[ErrorDetails]) -> bool:
    """A list is called too short also because what was wrong in it has been left out."""
    place = fault["loc"]
    return fault["type"] == "too_short" and any(
        other["loc"][: len(place)] == place for other in faults if other["loc"] != place
    )


def _fault_line(fault: ErrorDetails) -> str:
    location, kind = fault["loc"], fault["type"]
    field = ".".join(str(part) for part in location)
    text = _PLAIN_WORDS.get(kind) or fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if not field:
        return text
    if kind == "extra_forbidden":
        return f"{field}: {text}"
    return f"{field}: {text}{_found(fault)}; set {_variable(location)} or {field} in the TOML file"


def _found(fault: ErrorDetails) -> str:
    """The value, if that says more and cannot be a secret."""
    value = fault["input"]
    told = fault["type"] in {*_PLAIN_WORDS, "value_error"} or not isinstance(value, str | int | float)
    return "" if told or len(str(value)) > _SHOWN_LENGTH else f", not {value!r}"


def _variable(location: tuple[str | int, ...]) -> str:
    """The variable that holds it: none goes into a list, and names of flows are no names of variables."""
    whole = next((at for at, part in enumerate(location) if isinstance(part, int)), len(location))
    path = location[:1] if location[0] == "flows" else location[:whole]
    return PREFIX + "__".join(str(part) for part in path).upper() + (" (as JSON)" if len(path) < len(location) else "")
