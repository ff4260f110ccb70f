"""Where settings come from: environment, `.env`, a TOML file; every fault told at once, with its remedy."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
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


class InvalidSettings(Exception):
    """The settings do not hold. One line for each fault: which field, what is wrong, what to do."""


class Layered(BaseSettings):
    """Settings read from the environment, then a `.env` file, then the TOML file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file_encoding="utf-8",
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
    path = config or (Path(os.environ[CONFIG_VARIABLE]) if CONFIG_VARIABLE in os.environ else None)
    if path and not path.is_file():
        raise InvalidSettings(f"{path}: no such file; give the TOML file by --config or {CONFIG_VARIABLE}")
    path = path or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    _refuse_unknown(path, known)
    bound = type(kind.__name__, (kind,), {"__module__": kind.__module__, "model_config": {"toml_file": path}})
    try:
        loaded: _S = bound(_env_file=env_file)
        return loaded
    except ValidationError as error:
        raise InvalidSettings("\n".join(_fault_lines(error))) from None
    except SettingsError as error:
        raise InvalidSettings(f"{error}; nested values in variables must be JSON") from None


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
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"{path}: not valid TOML: {error}") from None
        faults += [
            f"{path}: {name}: no such setting; known: {', '.join(sorted(known))}" for name in table if name not in known
        ]
    if faults:
        raise InvalidSettings("\n".join(faults))


def _fault_lines(error: ValidationError) -> list[str]:
    return [_fault_line(list(fault["loc"]), fault["type"], fault["msg"]) for fault in error.errors(include_input=False)]


def _fault_line(location: list[str | int], kind: str, message: str) -> str:
    field = ".".join(str(part) for part in location)
    text = message.removeprefix("Value error, ")
    if not field:
        return text
    variable = PREFIX + "__".join(str(part) for part in location).upper()
    if kind == "missing":
        return f"{field}: required; set {variable} or {field} in the TOML file"
    return f"{field}: {text}; set {variable} or {field} in the TOML file"
