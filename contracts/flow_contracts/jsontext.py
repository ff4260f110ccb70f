"""Strict JSON (RFC 8259), both ways: what another language's parser might read differently is not JSON here."""

from __future__ import annotations

import json
import math
from typing import Annotated, NoReturn

from pydantic import AfterValidator, JsonValue

MAX_DEPTH = 100
"""Arrays and objects inside one another; beyond this, other readers' own limits begin."""


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class NotJson(ValueError):
    """The text is not strict JSON, or the value has no JSON form. The message never quotes a value."""


def parse(data: bytes, *, max_depth: int = MAX_DEPTH) -> JsonValue:
    """Read UTF-8 JSON, with or without a byte order mark.

    Raises `NotJson` for anything else, and for duplicate keys, NaN and infinities, numbers beyond a double, lone
    surrogates and nesting beyond `max_depth`.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotJson(f"is not UTF-8 (byte {error.start})") from None
    try:
        value: JsonValue = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise NotJson(f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise NotJson(f"is nested more than {max_depth} deep") from None
    except NotJson:
        raise
    except ValueError:  # the interpreter's own limit for digits of an integer
        raise NotJson("has a number with too many digits") from None
    _require_shallow(value, text, max_depth)
    if "\\u" in text:  # only an escape can stand for a lone surrogate
        dump(value)
    return value


def dump(value: JsonValue) -> bytes:
    """Write compact UTF-8 JSON. Raises `NotJson` for NaN, infinities, lone surrogates and excessive nesting."""
    try:
        return _encoder.encode(value).encode()
    except UnicodeEncodeError:
        raise NotJson("has a lone surrogate in a string") from None
    except RecursionError:
        raise NotJson(f"is nested more than {MAX_DEPTH} deep") from None
    except ValueError:
        raise NotJson("has a number that JSON cannot express (NaN or an infinity)") from None


def checked(value: JsonValue, *, max_depth: int = MAX_DEPTH) -> JsonValue:
    """The value itself. Raises `NotJson` if it cannot travel: nested too deep, or not expressible (see `dump`)."""
    _require_shallow(value, dump(value), max_depth)
    return value


def _require_shallow(value: JsonValue, text: str | bytes, max_depth: int) -> None:
    brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if brackets <= max_depth:  # as is nearly every value, and counting is quicker than looking
        return
    level: list[JsonValue] = [value]
    for _ in range(max_depth + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise NotJson(f"is nested more than {max_depth} deep")


Json = Annotated[JsonValue, AfterValidator(checked)]
"""A field of a model that holds any JSON that can travel."""


def _inside(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotJson("has an object with a duplicate key")
    return result


def _no_constant(name: str) -> NoReturn:
    raise NotJson(f"has {name}, which is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotJson("has a number beyond the range of a double")
    return number
