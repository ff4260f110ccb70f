"""Checks a flow's `input_schema` at the start, and bounds the cost of applying it to an input.

The worker retrieves no schema: each reference must lead to a part of the same schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

Schema = Mapping[str, Any] | bool

UNBOUNDED = 1 << 40
"""The weight of a schema whose cost is not proportional to the size of the input."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_UNBOUNDED_KEYWORDS = frozenset(
    {"pattern", "patternProperties", "uniqueItems", "unevaluatedItems", "unevaluatedProperties"}
    | {"$dynamicRef", "$recursiveRef"}
)
_NOT_RESOLVED = (Unresolvable, ValueError, LookupError, TypeError, AttributeError)
"""`referencing` raises the built-in errors for a reference into a text or a number, or with a malformed URI."""


def weigh(schema: Schema) -> int:
    """Return the weight of a schema: the largest number of its parts that apply to one value of the input.

    The weight is `UNBOUNDED` if the schema is recursive, or has a regular expression or another keyword whose cost may
    grow faster than the input. Raises `ValueError` if the schema is invalid, or a reference leads out of it.
    """
    if isinstance(schema, dict) and not isinstance(schema.get("$schema", ""), str):
        raise ValueError("has a $schema that is not text; use the URI of a draft")  # noqa: TRY004 - pydantic reports it with the setting
    try:
        return _Analysis(schema).weight()
    except SchemaError as error:
        raise ValueError(f"is not a JSON Schema at {error.json_path}: {error.message}") from None
    except RecursionError:
        raise ValueError("is nested too deeply; flatten the schema") from None


class _Analysis:
    """Walks through one schema, and follows each of its references."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._kind = validator_for(schema, default=Draft202012Validator)
        self._specification = DRAFT202012.detect(schema)
        self._followed: set[int] = set()
        """The objects with references that the walk has visited, by their `id`."""
        self._begun: set[int] = set()
        self._weights: dict[int, int] = {}

    def weight(self) -> int:
        self._kind.check_schema(self._schema)  # type: ignore[arg-type]  # stub: dict only
        if isinstance(self._schema, bool):
            return 1
        root: Resource[Any] = self._specification.create_resource(self._schema)
        registry: Registry[Any] = Registry()
        weight = self._weigh(root, registry.resolver_with_root(root))
        return UNBOUNDED if any(map(self._is_unbounded, _objects(self._schema))) else weight

    def _is_unbounded(self, part: Mapping[str, Any]) -> bool:
        """Return whether an object may hold a keyword of unbounded cost.

        The object may also be a constant or the names of properties. Such an error only costs time.
        """
        unknown_reference = isinstance(part.get("$ref"), str) and id(part) not in self._followed
        return unknown_reference or not _UNBOUNDED_KEYWORDS.isdisjoint(part)

    def _weigh(self, target: Resource[Any], resolver: Any) -> int:
        """Return the weight of a subschema, with those of its references' targets."""
        key = id(target.contents)
        if key in self._weights:
            return self._weights[key]
        if key in self._begun:  # a cycle: the depth of the input decides how often the subschema applies
            return UNBOUNDED
        self._begun.add(key)
        weight = _count(target.contents) + self._references_weight(target, resolver)
        self._weights[key] = min(weight, UNBOUNDED)
        return self._weights[key]

    def _references_weight(self, resource: Resource[Any], resolver: Any) -> int:
        """Return the weight of all targets of the references in a subschema and in those below it."""
        schema: Mapping[str, Any] = resource.contents
        _require_regular_expressions(schema)
        weight = sum(
            self._follow(keyword, schema[keyword], resolver)
            for keyword in _REFERENCES
            if isinstance(schema.get(keyword), str)
        )
        self._followed.add(id(schema))
        for below in _subschemas(resource):
            weight += self._references_weight(below, resolver.in_subresource(below))
        return min(weight, UNBOUNDED)

    def _follow(self, keyword: str, reference: str, resolver: Any) -> int:
        place = f"{keyword} '{reference}' at {_place(self._schema, keyword, reference)}"
        try:
            resolved = resolver.lookup(reference)
        except _NOT_RESOLVED:
            raise ValueError(
                f"{place} leads to no part of this schema, and the worker retrieves no other one; copy the subschema "
                "into '$defs' and refer to '#/$defs/NAME'"
            ) from None
        target = resolved.contents
        if isinstance(target, bool):
            return 1
        if not isinstance(target, dict):
            raise ValueError(f"{place} leads to a value that is not a schema; refer to an object")  # noqa: TRY004
        if id(target) not in self._begun:
            self._kind.check_schema(target)  # the check of the whole schema skips what an unknown keyword holds
        weight = self._weigh(self._specification.create_resource(target), resolved.resolver)
        # The library searches the whole schema for each other form of reference, whenever it applies.
        return weight if reference == "#" or reference.startswith("#/") else UNBOUNDED


def _subschemas(resource: Resource[Any]) -> Iterator[Resource[Any]]:
    for below in resource.subresources():
        if isinstance(below.contents, dict):
            yield below
    # `referencing` omits these if the first one is a list of names, which a draft up to 7 allows beside schemas.
    dependencies = resource.contents.get("dependencies")
    if isinstance(dependencies, dict):
        specification = DRAFT202012.detect(resource.contents)
        yield from (specification.create_resource(each) for each in dependencies.values() if isinstance(each, dict))


def _require_regular_expressions(schema: Mapping[str, Any]) -> None:
    pattern, properties = schema.get("pattern"), schema.get("patternProperties")
    patterns = [pattern] if isinstance(pattern, str) else []
    patterns += properties if isinstance(properties, dict) else []
    for text in patterns:
        try:
            re.compile(text)
        except (re.error, OverflowError) as error:
            raise ValueError(f"pattern '{text}' is not a regular expression of Python: {error}") from None


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
    for below in _children(value):
        yield from _objects(below)


def _count(value: object) -> int:
    return 1 + sum(map(_count, _children(value)))


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _place(schema: object, keyword: str, reference: str, path: str = "$") -> str:
    """Return the JSON path of the first object with this reference."""
    if isinstance(schema, dict) and schema.get(keyword) == reference:
        return path
    items: list[tuple[Any, Any]] = []
    if isinstance(schema, dict):
        items = [(f".{name}", below) for name, below in schema.items()]
    elif isinstance(schema, list):
        items = [(f"[{index}]", below) for index, below in enumerate(schema)]
    for step, below in items:
        if place := _place(below, keyword, reference, path + step):
            return place
    return ""
