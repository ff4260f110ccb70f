"""Reads settings from the environment, `.env` and a TOML file, and reports every fault at once with its remedy."""

from __future__ import annotations

import codecs
import contextlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from flow_worker.settings.faults import PREFIX, SENDER_VARIABLES, fault_lines, not_json
from flow_worker.settings.kubernetes import is_of_kubernetes
from flow_worker.settings.nesting import nesting_faults
from flow_worker.settings.outline import suggestion

CONFIG_VARIABLE = "FLOW_WORKER_CONFIG"
DEFAULT_CONFIG = Path("flow-worker.toml")
DEFAULT_ENV_FILE = Path(".env")
_OTHER_VARIABLES = {CONFIG_VARIABLE, "FLOW_WORKER_GATEWAY_URL", *SENDER_VARIABLES}
"""Variables with the prefix that are not settings."""
_PASSED_ON = {"IDENTITY_ENDPOINT", "IDENTITY_HEADER", "FLOW_WORKER_CLAIM"}
"""Variables of the file that azure-identity and `check-access` read from the environment."""


class InvalidSettings(Exception):
    """The settings are invalid. The message has one line for each fault: field, value found, values allowed, remedy."""


class Layered(BaseSettings):
    """Settings read from the environment, then a `.env` file, then the TOML file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",  # a variable can unset a setting of the TOML file
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


def load_checked(kind: type[_S], config: Path | None, env_file: Path | None, known: set[str]) -> _S:
    """Read and check the settings that `kind` declares; `known` holds the top-level names of all settings.

    `config` is the TOML file; default: `$FLOW_WORKER_CONFIG`, then `flow-worker.toml` in the working directory.
    `env_file` is a file of variables; default: `.env` in the working directory. Only a default may be absent.
    Raises `InvalidSettings`, which names every fault at once.
    """
    if env_file and not env_file.is_file():
        raise InvalidSettings(f"{env_file}: no such file; name the file of variables with --env-file")
    env_file = env_file or DEFAULT_ENV_FILE
    encoding = _encoding(env_file)
    variables = _variables(env_file, encoding)
    named = os.environ.get(CONFIG_VARIABLE) or variables.get(CONFIG_VARIABLE)
    explicit = config or (Path(named) if named else None)
    if explicit and not explicit.is_file():
        raise InvalidSettings(f"{explicit}: no such file; name the TOML file with --config or {CONFIG_VARIABLE}")
    path = explicit or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    environment = {**variables, **{name.upper(): value for name, value in os.environ.items()}}
    _refuse_unknown(path, environment, known, kind)
    # pydantic-settings takes the TOML file from the class alone, so each call makes a subclass with its own file.
    with_file = type(kind.__name__, (kind,), {"__module__": kind.__module__, "model_config": {"toml_file": path}})
    try:
        loaded: _S = with_file(_env_file=env_file, _env_file_encoding=encoding)
    except ValidationError as error:
        raise InvalidSettings("\n".join(fault_lines(error, kind, environment))) from None
    except SettingsError as error:
        raise InvalidSettings(not_json(error, kind, environment)) from None
    _pass_on(variables)
    return loaded


def _encoding(file: Path) -> str:
    """Return the encoding by the byte order mark, which editors and PowerShell's `>` write on Windows."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        mark = opened.read(2)
        return "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return "utf-8-sig"


def _variables(env_file: Path, encoding: str) -> dict[str, str]:
    """Return the variables of the file, with their names in upper case. Raises `InvalidSettings`."""
    if not env_file.is_file():
        return {}
    try:
        if encoding == "utf-8-sig" and b"\0" in env_file.read_bytes():
            raise InvalidSettings(f"{env_file}: not UTF-8, but UTF-16 or UTF-32 without a mark; save it as UTF-8")
        found = dotenv_values(env_file, encoding=encoding)
    except UnicodeDecodeError:
        raise InvalidSettings(f"{env_file}: not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InvalidSettings(f"{env_file}: cannot be read: {error.strerror}") from None
    return {name.upper(): value or "" for name, value in found.items()}


def _pass_on(variables: Mapping[str, str]) -> None:
    """Let azure-identity find the emulator's identity endpoint, which a file of the emulator's settings names."""
    for name in _PASSED_ON & variables.keys():
        os.environ.setdefault(name, variables[name])


def _refuse_unknown(path: Path | None, variables: Mapping[str, str], known: set[str], kind: type[Layered]) -> None:
    """Refuse a misspelt name: it would silently leave the default in force."""
    faults = []
    for variable, value in variables.items():
        name = variable.removeprefix(PREFIX).split("__")[0].lower()
        if not variable.startswith(PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if name in known:
            faults += nesting_faults(variable, kind)
        elif not is_of_kubernetes(variable, value):
            names = [each.upper() for each in sorted(known)]
            similar = suggestion(name.upper(), names)
            faults.append(f"{variable}: no such setting{similar}; known after {PREFIX}: {', '.join(names)}")
    if path:
        faults += [
            f"{path}: {name}: no such setting{suggestion(name, known)}; known: {', '.join(sorted(known))}"
            for name in _table(path)
            if name not in known
        ]
    if faults:
        raise InvalidSettings("\n".join(faults))


def _table(path: Path) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
        if "\0" in text:  # text in ASCII is also valid UTF-8 then
            raise InvalidSettings(f"{path}: not UTF-8, but UTF-16 or UTF-32; save it as UTF-8")
        return tomllib.loads(text)
    except UnicodeDecodeError:
        raise InvalidSettings(f"{path}: not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        marked = path.read_bytes().startswith(b"\xef\xbb\xbf")
        reason = "it begins with a byte order mark; save it as UTF-8 without one" if marked else str(error)
        raise InvalidSettings(f"{path}: not valid TOML: {reason}") from None
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot be read: {error.strerror}") from None
