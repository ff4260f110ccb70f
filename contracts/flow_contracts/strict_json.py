"""Strict JSON (RFC 8259): it refuses text that parsers of other languages read differently.

A sender, the worker and a reader of the result must agree on every value. Parsers differ on duplicate keys, NaN,
numbers beyond a double and lone surrogates, so this module refuses all of these.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, NoReturn

from pydantic import AfterValidator, JsonValue

MAX_DEPTH = 100
"""Levels of nested arrays and objects. The default limits of other parsers begin not far beyond it."""

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class NotJson(ValueError):
    """The text is not strict JSON, or the value has no strict JSON form. The message never quotes a value."""


def parse(data: bytes, *, max_depth: int = MAX_DEPTH) -> JsonValue:
    """Parse UTF-8 JSON, with or without a byte order mark.

    Raises `NotJson` for anything else. It also raises for duplicate keys, NaN, infinities, numbers beyond a double,
    lone surrogates and more than `max_depth` levels.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotJson(f"is not UTF-8 (byte {error.start})") from None
    try:
        value: JsonValue = json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except json.JSONDecodeError as error:
        raise NotJson(f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise NotJson(f"is nested more than {max_depth} deep") from None
    except NotJson:
        raise
    except ValueError:  # the interpreter limits the digits of an integer
        raise NotJson("has a number with too many digits") from None
    _require_shallow(value, text, max_depth)
    if "\\u" in text:  # only an escape can produce a lone surrogate, because UTF-8 has none; encoding finds it
        dump(value)
    return value


def dump(value: JsonValue) -> bytes:
    """Encode as compact UTF-8 JSON. Raises `NotJson` for NaN, infinities, lone surrogates and excessive nesting."""
    try:
        return _encoder.encode(value).encode()
    except UnicodeEncodeError:
        raise NotJson("has a lone surrogate in a string") from None
    except RecursionError:
        raise NotJson(f"is nested more than {MAX_DEPTH} deep") from None
    except ValueError:
        raise NotJson("has a number that JSON cannot express (NaN or an infinity)") from None


def validate(value: JsonValue, *, max_depth: int = MAX_DEPTH) -> JsonValue:
    """Return the value unchanged. Raises `NotJson` if it has more than `max_depth` levels or `dump` refuses it."""
    _require_shallow(value, dump(value), max_depth)
    return value


def _require_shallow(value: JsonValue, text: str | bytes, max_depth: int) -> None:
    brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    # The brackets bound the depth from above. Nearly every value has fewer of them than the levels allowed. Counting
    # them is much faster than walking through the value.
    if brackets <= max_depth:
        return
    # Level by level instead of by recursion, which deep nesting would exhaust.
    level: list[JsonValue] = [value]
    for _ in range(max_depth + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise NotJson(f"is nested more than {max_depth} deep")


Json = Annotated[JsonValue, AfterValidator(validate)]
"""A field of a model that holds any value with a strict JSON form."""


def _children(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotJson("has an object with a duplicate key")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"has {name}, which is not JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotJson("has a number beyond the range of a double")
    return number
