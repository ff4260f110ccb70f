"""The flows that may be started, by name. A URL never comes from a message."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, extend, validator_for
from pydantic import JsonValue

from flow_worker.access.privilege import Depth
from flow_worker.errors import Refused
from flow_worker.flows.status_url import NOWHERE, StatusHosts
from flow_worker.settings import FlowSettings, RetrySettings


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow. `url` is a secret: whoever has it and a token may start the flow."""

    name: str
    url: str = field(repr=False)
    role: str | None
    """An app role that the sender's token must hold."""
    timeout_seconds: float
    idempotent: bool
    privilege: str | None = None
    """A privilege that the user must hold in Dataverse, at least at this depth."""
    privilege_depth: Depth = Depth.BASIC
    bind_claim: bool = False
    input_validator: Validator | None = field(default=None, repr=False)
    retry: RetrySettings | None = None
    """How long its requests are tried; None: as the worker's own settings say."""
    status_hosts: StatusHosts = NOWHERE

    def check_input(self, value: JsonValue) -> None:
        """Raises `Refused` unless `value` fits the trigger's schema. The message names the place, not the value."""
        if self.input_validator is None:
            return
        try:
            fault = next(iter(self.input_validator.iter_errors(value)), None)
        except (ArithmeticError, RecursionError):
            text = f"The input does not fit the schema of '{self.name}': it holds what cannot be compared with it."
            raise Refused("input_schema_mismatch", text) from None
        if fault is not None:
            rule = f"'{fault.validator}': {_shown(fault.validator_value)}"
            raise Refused(
                "input_schema_mismatch",
                f"The input does not fit the schema of '{self.name}': {_shown(fault.json_path)} fails {rule}.",
            )


class Registry:
    """Finds a flow by its name."""

    def __init__(self, flows: Mapping[str, FlowSettings], status_hosts: StatusHosts = NOWHERE) -> None:
        self._flows = {name: _flow(name, settings, status_hosts) for name, settings in flows.items()}

    def find(self, name: str) -> Flow:
        """Raises `Refused` if there is no such flow."""
        try:
            return self._flows[name]
        except KeyError:
            raise Refused("unknown_flow", "No flow of this name may be started here; check the name.") from None


def _flow(name: str, settings: FlowSettings, status_hosts: StatusHosts) -> Flow:
    schema = settings.input_schema
    return Flow(
        name=name,
        url=settings.url.get_secret_value(),
        role=settings.role,
        privilege=settings.privilege,
        privilege_depth=Depth[settings.privilege_depth.upper()],
        bind_claim=settings.bind_claim,
        timeout_seconds=settings.timeout_seconds,
        idempotent=settings.idempotent,
        input_validator=None if schema is None else _validator(schema),
        retry=settings.retry,
        status_hosts=status_hosts,
    )


def _validator(schema: Mapping[str, Any] | bool) -> Validator:
    """By the schema's own draft. jsonschema compares each item with each for `uniqueItems`; here they are hashed."""
    kind = extend(  # type: ignore[no-untyped-call]
        validator_for(schema, default=Draft202012Validator), {"uniqueItems": _unique_items}
    )
    validator: Validator = kind(schema)
    return validator


def _unique_items(validator: Validator, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if wanted and validator.is_type(instance, "array") and len({_canonical(one) for one in instance}) < len(instance):
        yield ValidationError("has items that are the same")


def _canonical(value: Any) -> str:
    """The same text for what JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(one) for one in value]
        case dict():
            return {name: _whole(one) for name, one in value.items()}
        case _:
            return value


def _shown(rule: Any) -> str:
    text = str(rule)
    return text if len(text) <= 200 else text[:200] + "…"
