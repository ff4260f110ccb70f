"""Strict JSON (RFC 8259): it refuses text that parsers of other languages read differently.

A sender, the worker and a reader of the result must agree on every value. Parsers differ on duplicate keys, NaN,
numbers beyond a double and lone surrogates, so this module refuses all of these.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
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

_LONG_DIGITS = 21
"""From here an integer is long: one that 64 bits hold has 20 digits at most."""

_MAX_LONG_DIGITS = 100_000
"""The digits of all long integers of a text together. Each takes the time of many other characters."""

_ANY_DIGIT_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG_RUN = b"0" * _LONG_DIGITS

_PIECE_BYTES = 256 * 1024
"""A search of a longer text goes through it in pieces: no other thread runs during a search."""

_SPACE = re.compile(r"[ \t\r\n]*")
_SPACE_OR_MARK = re.compile("[ \t\r\n\ufeff]*")
_BYTE_ORDER_MARK = "\ufeff"

Rest = Callable[[], None]
"""A function that a thread calls between two steps of a long task, so that other threads run."""

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class NotJson(ValueError):
    """The text is not strict JSON, or the value has no strict JSON form. The message never quotes a value."""


def no_rest() -> None:
    """Continue at once."""


def parse(data: bytes, *, max_depth: int = MAX_DEPTH, max_values: int | None = None, rest: Rest = no_rest) -> JsonValue:
    """Parse UTF-8 JSON, with or without byte order marks. Programs that join texts leave several, or space before one.

    Raises `NotJson` for anything else. It also raises for duplicate keys, NaN, infinities, numbers beyond a double,
    many long integers, lone surrogates, more than `max_depth` levels and more than `max_values` values.
    """
    require_few_values(data, max_values, rest)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotJson(f"is not UTF-8 (byte {error.start})") from None
    rest()
    start = _end_of(_SPACE, text, 0, rest)
    if text.startswith(_BYTE_ORDER_MARK, start):
        start = _end_of(_SPACE_OR_MARK, text, start, rest)
    decoder = json.JSONDecoder(
        object_pairs_hook=_object,
        parse_constant=_refuse_constant,
        parse_float=_finite_float,
        # Only a text with so many digits in a row, perhaps in a string, needs a call for each of its integers.
        parse_int=_Integers() if _has_long_run(data, rest) else None,
    )
    try:
        value = _whole(text, decoder, start, rest)
    except json.JSONDecodeError as error:
        raise NotJson(f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise NotJson(f"is nested more than {max_depth} deep") from None
    rest()
    _require_shallow(value, data, max_depth, rest)
    if "\\u" in text:  # only an escape can produce a lone surrogate, because UTF-8 has none; encoding finds it
        dump(value)
    rest()
    return value


def _whole(text: str, decoder: json.JSONDecoder, start: int, rest: Rest) -> JsonValue:
    """Parse the value that begins at `start`. Raises `JSONDecodeError` unless only space follows it."""
    value: JsonValue
    value, end = decoder.raw_decode(text, start)
    if (end := _end_of(_SPACE, text, end, rest)) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
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
    _require_shallow(value, data, max_depth, no_rest)
    return value


def require_few_values(data: bytes, max_values: int | None, rest: Rest = no_rest) -> None:
    """Raise `NotJson` if a JSON text has more than `max_values` values. Builds none of them."""
    # Nearly every text is so short, or has so few separators, that the exact count is superfluous.
    if max_values is None or len(data) <= max_values or _count(data, _separators, max_values, rest) < max_values:
        return
    if count_values(data, max_values, rest) > max_values:
        raise NotJson(f"has more than {max_values} values")


def count_values(data: bytes, enough: int, rest: Rest = no_rest) -> int:
    """Return the number of values in a JSON text, or a number above `enough` if there are more.

    An object's key is no value. An empty array or object counts twice, because the count is that of the separators.
    """
    count, quotes, is_escaped = 1, 0, False
    for piece in _pieces(data, rest):
        # Only strings contain backslashes. Without its escapes a text has two quotes for each string.
        text = piece[is_escaped:]
        is_escaped = (len(text) - len(text.rstrip(b"\\"))) % 2 == 1  # the escape ends in the next piece
        text = text[: len(text) - is_escaped].replace(b"\\\\", b"").replace(b'\\"', b"")
        in_string = quotes % 2
        quotes += text.count(b'"')
        if quotes > 4 * enough:  # at most half of the strings are keys
            return quotes // 4
        count += _separators(b"".join(text.split(b'"')[in_string::2]))
        if count > enough:
            break
    return count


def _count(data: bytes, count_in: Callable[[bytes], int], enough: int, rest: Rest) -> int:
    """Return the sum of the counts in the pieces of the data, or one of at least `enough`."""
    count = 0
    for piece in _pieces(data, rest):
        count += count_in(piece)
        if count >= enough:
            break
    return count


def _pieces(data: bytes, rest: Rest, overlap: int = 0) -> Iterator[bytes]:
    if len(data) <= _PIECE_BYTES:  # no copy of nearly every text
        yield data
        return
    for at in range(0, len(data), _PIECE_BYTES):
        yield data[at : at + _PIECE_BYTES + overlap]
        rest()


def _separators(data: bytes) -> int:
    return data.count(b",") + _brackets(data)


def _brackets(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")


def _has_long_run(data: bytes, rest: Rest) -> bool:
    """Return whether the data has the digits of a long integer."""
    for piece in _pieces(data, rest, _LONG_DIGITS):  # noqa: SIM110 - a generator would take twice as long
        if _LONG_RUN in piece.translate(_ANY_DIGIT_AS_ZERO):
            return True
    return False


def _end_of(space: re.Pattern[str], text: str, start: int, rest: Rest) -> int:
    """Return where the space that begins at `start` ends."""
    while (found := space.match(text, start, start + _PIECE_BYTES)) is not None and found.end() > start:
        start = found.end()
        rest()
    return start


def _require_shallow(value: JsonValue, data: bytes, max_depth: int, rest: Rest) -> None:
    # The brackets bound the depth from above. Nearly every value has fewer of them than the levels allowed. Counting
    # them is much faster than walking through the value.
    if _count(data, _brackets, max_depth + 1, rest) <= max_depth:
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


class _Integers:
    """Parses the integers of one text."""

    def __init__(self) -> None:
        self._long_digits = 0

    def __call__(self, text: str) -> int:
        digits = len(text)
        if digits >= _LONG_DIGITS:
            if digits > _MAX_DIGITS + text.startswith("-"):
                raise NotJson("has a number with too many digits")
            self._long_digits += digits
            if self._long_digits > _MAX_LONG_DIGITS:
                raise NotJson(f"has integers of {_LONG_DIGITS} digits or more, with too many digits together")
        return int(text)


def _finite_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotJson("has a number beyond the range of a double")
    return number
