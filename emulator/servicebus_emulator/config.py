"""The emulator's configuration: the official emulator's `config.json` plus the section `FlowWorker`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from servicebus_emulator.cloud.definitions import HttpDefinition
from servicebus_emulator.cloud.fields import TRUSTED_SCHEMAS
from servicebus_emulator.servicebus.access.policies import Policy
from servicebus_emulator.servicebus.configuration.fields import ConfigError
from servicebus_emulator.servicebus.configuration.policies import parse_policies
from servicebus_emulator.servicebus.configuration.queues import parse_queues
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.validation import first_fault

DEFAULT = Path(__file__).with_name("default.json")
_SECTIONS = ("UserConfig", "FlowWorker")


@dataclass(frozen=True, slots=True)
class Config:
    """A parsed configuration."""

    queues: tuple[QueueSettings, ...]
    policies: tuple[Policy, ...]
    """The shared access policies of the namespace; those of a queue are in its settings."""
    http: HttpDefinition


def load(path: Path | None = None) -> Config:
    """Read a configuration file, or the default one. Raises `ConfigError` if it cannot be read or is invalid."""
    try:
        text = (path or DEFAULT).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not UTF-8"
        raise ConfigError("(file)", f"cannot be read: {reason}") from error
    # Skip the slow check of input schemas for the packaged file. The tests run it, and every start would pay for it.
    return parse(text, context=TRUSTED_SCHEMAS if path is None else None)


def parse(text: str, *, context: str | None = None) -> Config:
    """Parse the text of a configuration. Raises `ConfigError`, which names the field.

    `context`: `cloud.fields.TRUSTED_SCHEMAS` skips the checks that the packaged configuration has passed in the tests.
    """
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
    queues, policies = _with_policies(parse_queues(document), parse_policies(document))
    return Config(queues, policies, _http(document, context))


def _with_policies(
    queues: tuple[QueueSettings, ...], policies: tuple[Policy, ...]
) -> tuple[tuple[QueueSettings, ...], tuple[Policy, ...]]:
    """Return the queues, each with its own policies, and the policies of the namespace."""
    by_queue = {
        queue.name: tuple(policy for policy in policies if policy.entity == queue.name.lower()) for queue in queues
    }
    namespace = tuple(policy for policy in policies if not policy.entity)
    return tuple(replace(queue, policies=by_queue[queue.name]) for queue in queues), namespace


def _http(document: Mapping[str, object], context: str | None) -> HttpDefinition:
    try:
        return HttpDefinition.model_validate(
            document.get("FlowWorker", {}), by_alias=True, by_name=False, context=context
        )
    except ValidationError as error:
        raise ConfigError(*first_fault(error, "FlowWorker")) from error
