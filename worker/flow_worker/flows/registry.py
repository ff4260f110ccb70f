"""Finds the registered flows by name. A flow's URL never comes from a message."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, extend, validator_for
from pydantic import JsonValue

from flow_worker.errors import Refused
from flow_worker.flows.privilege import Depth
from flow_worker.flows.status_url import NOWHERE, StatusHosts
from flow_worker.settings import FlowSettings, RetrySettings

_MAX_QUOTED_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow. `url` is a secret: together with a token it starts the flow."""

    name: str
    url: str = field(repr=False)
    role: str | None
    """The app role that the sender's token must hold."""
    timeout_seconds: float
    idempotent: bool
    privilege: str | None = None
    """The privilege that the user must hold in Dataverse, at `privilege_depth` or deeper."""
    privilege_depth: Depth = Depth.BASIC
    bind_claim: bool = False
    input_validator: Validator | None = field(default=None, repr=False)
    retry: RetrySettings | None = None
    """The flow's own retry settings; None: the worker's settings apply."""
    status_hosts: StatusHosts = NOWHERE

    def check_input(self, value: JsonValue) -> None:
        """Raise `Refused` unless `value` fits the trigger's schema. The message names the place, not the value."""
        if self.input_validator is None:
            return
        try:
            fault = next(iter(self.input_validator.iter_errors(value)), None)
        except (ArithmeticError, RecursionError):
            # The validator computes with the sender's values: 10**400 overflows a float, deep nesting the stack.
            text = f"The input does not fit the schema of '{self.name}': the schema cannot be applied to its values."
            raise Refused("input_schema_mismatch", text) from None
        if fault is not None:
            rule = f"'{fault.validator}': {_shortened(fault.validator_value)}"
            raise Refused(
                "input_schema_mismatch",
                f"The input does not fit the schema of '{self.name}': {_shortened(fault.json_path)} fails {rule}.",
            )


class Registry:
    """The registered flows."""

    def __init__(self, flows: Mapping[str, FlowSettings], status_hosts: StatusHosts = NOWHERE) -> None:
        self._flows = {name: _flow(name, settings, status_hosts) for name, settings in flows.items()}

    def find(self, name: str) -> Flow:
        """Return the flow of this name. Raises `Refused` if it is not registered."""
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
    """Return a validator of the schema's own draft.

    For `uniqueItems`, jsonschema compares each item with each other one. An array of 20,000 items would block the
    event loop, and so all lanes, for minutes. This validator compares hashes instead.
    """
    kind = extend(  # type: ignore[no-untyped-call]  # jsonschema ships no types for `extend`
        validator_for(schema, default=Draft202012Validator), {"uniqueItems": _unique_items}
    )
    validator: Validator = kind(schema)
    return validator


def _unique_items(validator: Validator, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if wanted and validator.is_type(instance, "array") and len({_canonical(item) for item in instance}) < len(instance):
        yield ValidationError("has equal items")


def _canonical(value: Any) -> str:
    """Return the same text for values that JSON Schema calls equal: 1 equals 1.0 and does not equal true."""
    return json.dumps(_with_whole_numbers(value), sort_keys=True)


def _with_whole_numbers(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_with_whole_numbers(item) for item in value]
        case dict():
            return {name: _with_whole_numbers(item) for name, item in value.items()}
        case _:
            return value


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_QUOTED_CHARACTERS else text[:_MAX_QUOTED_CHARACTERS] + "…"
