"""The emulator's configuration: the official emulator's `config.json`, and a section `FlowWorker` of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from servicebus_emulator.cloud.definitions import PROVEN, HttpDefinition
from servicebus_emulator.servicebus.access.policies import Policy, parse_policies
from servicebus_emulator.servicebus.config import ConfigError, QueueSettings, parse_entities

DEFAULT = Path(__file__).with_name("default.json")
_SECTIONS = ("UserConfig", "FlowWorker")
_REMEDIES = {
    "extra_forbidden": "no such field; check its spelling",
    "missing": "is required",
    "model_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "tuple_type": "must be a JSON array",
}


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the emulator is started with."""

    queues: tuple[QueueSettings, ...]
    policies: tuple[Policy, ...]
    """The namespace's."""
    http: HttpDefinition


def load(path: Path | None = None) -> Config:
    """Read the file, or the one that comes along. Raises `ConfigError`."""
    try:
        text = (path or DEFAULT).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not UTF-8"
        raise ConfigError("(file)", f"cannot be read: {reason}") from error
    # Our own file is checked by our tests, not anew at every start.
    return parse(text, context=PROVEN if path is None else None)


def parse(text: str, *, context: str | None = None) -> Config:
    """Read a configuration's text. Raises `ConfigError` naming the place in it. `context`: see `definitions.PROVEN`."""
    try:
        document: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno} column {error.colno}", f"not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError("(top level)", "nested too deeply") from error
    if not isinstance(document, dict):
        raise ConfigError("(top level)", "must be a JSON object")
    for name in document:
        if name not in _SECTIONS:
            raise ConfigError(name, f"no such section; known: {', '.join(_SECTIONS)}")
    queues, policies = _with_policies(parse_entities(document), parse_policies(document))
    return Config(queues, policies, _http(document, context))


def _with_policies(
    queues: tuple[QueueSettings, ...], policies: tuple[Policy, ...]
) -> tuple[tuple[QueueSettings, ...], tuple[Policy, ...]]:
    """The queues, each with its policies, and those of the namespace."""
    own = {queue.name: tuple(one for one in policies if one.entity == queue.name.lower()) for queue in queues}
    namespace = tuple(one for one in policies if not one.entity)
    return tuple(replace(queue, policies=own[queue.name]) for queue in queues), namespace


def _http(document: Mapping[str, object], context: str | None) -> HttpDefinition:
    try:
        return HttpDefinition.model_validate(
            document.get("FlowWorker", {}), by_alias=True, by_name=False, context=context
        )
    except ValidationError as error:
        raise ConfigError(*_first(error, "FlowWorker")) from error


def _first(error: ValidationError, root: str) -> tuple[str, str]:
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"])
    return path, _REMEDIES.get(found["type"]) or found["msg"].removeprefix("Value error, ")


def explain(error: ValidationError) -> str:
    """A control request's first mistake, in one line: where it is and what to do."""
    path, message = _first(error, "")
    return f"{path.removeprefix('.') or '(body)'}: {message}"
