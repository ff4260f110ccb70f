"""Strict JSON (RFC 8259): it refuses text that parsers of other languages read differently.

A sender, the worker and a reader of the result must agree on every value. Parsers differ on duplicate keys, NaN,
numbers beyond a double and lone surrogates, so this module refuses all of these.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Final, NoReturn

from pydantic import AfterValidator, JsonValue, ValidationInfo

MAX_DEPTH = 100
"""Levels of nested arrays and objects. The default limits of other parsers begin not far beyond it."""

MAX_VALUES = 50_000
"""The number of values in the body of a request, see `count_values`.

Empty arrays need the most memory and time per byte: a body of 1 MiB could hold a third of a million of them.
"""

_MAX_DIGITS = 309
"""The digits of the largest double. The time to read or write an integer grows with the square of its digits."""

_ANY_DIGIT_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_TOO_MANY_DIGITS = b"0" * (_MAX_DIGITS + 1)

_BYTE_ORDER_MARK = "\ufeff"
_SPACE = " \t\r\n"

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class NotJson(ValueError):
    """The text is not strict JSON, or the value has no strict JSON form. The message never quotes a value."""


def parse(data: bytes, *, max_depth: int = MAX_DEPTH, max_values: int | None = None) -> JsonValue:
    """Parse UTF-8 JSON, with or without byte order marks. Programs that join texts leave several, or space before one.

    Raises `NotJson` for anything else. It also raises for duplicate keys, NaN, infinities, numbers beyond a double,
    lone surrogates, more than `max_depth` levels and more than `max_values` values.
    """
    require_few_values(data, max_values)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotJson(f"is not UTF-8 (byte {error.start})") from None
    if (after_space := text.lstrip(_SPACE)).startswith(_BYTE_ORDER_MARK):
        text = after_space.lstrip(_BYTE_ORDER_MARK + _SPACE)
    try:
        value: JsonValue = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            # Only a text with so many digits in a row, perhaps in a string, needs a call for each of its integers.
            parse_int=_short_integer if _TOO_MANY_DIGITS in data.translate(_ANY_DIGIT_AS_ZERO) else None,
        )
    except json.JSONDecodeError as error:
        raise NotJson(f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise NotJson(f"is nested more than {max_depth} deep") from None
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


def validate(value: JsonValue, *, max_depth: int = MAX_DEPTH, max_values: int | None = None) -> JsonValue:
    """Return the value unchanged. Raises `NotJson` if it exceeds a limit, or `dump` refuses it."""
    data = dump(value)
    require_few_values(data, max_values)
    _require_shallow(value, data, max_depth)
    return value


def require_few_values(data: bytes, max_values: int | None) -> None:
    """Raise `NotJson` if a JSON text has more than `max_values` values. Builds none of them."""
    # Nearly every text is so short, or has so few separators, that the exact count is superfluous.
    if max_values is None or len(data) <= max_values or _count_separators(data) < max_values:
        return
    if count_values(data, max_values) > max_values:
        raise NotJson(f"has more than {max_values} values")


def count_values(data: bytes, enough: int) -> int:
    """Return the number of values in a JSON text, or a number above `enough` if there are more.

    An object's key is no value. An empty array or object counts twice, because the count is that of the separators.
    """
    # Only strings contain backslashes. Without its escapes a text has two quotes for each string.
    text = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = text.count(b'"') // 2
    if strings > 2 * enough:  # at most half of the strings are keys
        return strings // 2
    return _count_separators(b"".join(text.split(b'"')[::2])) + 1


def _count_separators(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")


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


TRUSTED: Final = "values that this program has validated before"
"""The validation context for such documents: checking the values of a large one again would take most of the time."""


def _validated(value: JsonValue, info: ValidationInfo) -> JsonValue:
    return value if info.context is TRUSTED else validate(value)


Json = Annotated[JsonValue, AfterValidator(_validated)]
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


def _short_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS + digits.startswith("-"):
        raise NotJson("has a number with too many digits")
    return int(digits)


def _finite_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotJson("has a number beyond the range of a double")
    return number
