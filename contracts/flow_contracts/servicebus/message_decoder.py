"""Decodes a message that a stranger encoded: each part that cannot be decoded becomes null, and the rest is kept.

- A property, an annotation or a field of the header is left out alone.
- A body is left out whole: a request whose input lacks a value is another request.
- The first section of each kind counts. Service Bus writes the header and the annotations before the sender's bytes, so
  no sender can replace the sequence number or the enqueued time with a second section.
- The work is bounded by the number of values, not of bytes: `MAX_BODY_VALUES` and `MAX_PROPERTIES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from azure.servicebus._pyamqp.message import Header, Message, Properties

from flow_contracts.servicebus.amqp_values import (
    SYMBOL_CODES,
    TEXT_CODES,
    BadValue,
    ValueDecoder,
    end_of,
    simple_items,
)

MAX_BODY_VALUES = 5_000
"""The AMQP values in a body. JSON in a data section, or in one string, is one value."""
_MAX_VALUE_BYTES = 1 << 20
"""The bytes of a body that is no data section: as JSON, bytes that are no text take five times as many."""
MAX_PROPERTIES = 1_000
"""The entries of each map before the body. Service Bus accepts 64 KB of properties."""
_MAX_SECTIONS = 1_000

_HEADER, _ANNOTATIONS, _PROPERTIES, _APPLICATION_PROPERTIES = 0x70, 0x72, 0x73, 0x74
_DATA, _SEQUENCE, _VALUE = 0x75, 0x76, 0x77
_BODY = (_DATA, _SEQUENCE, _VALUE)
_SYMBOLS = {
    b"amqp:header:list": _HEADER,
    b"amqp:message-annotations:map": _ANNOTATIONS,
    b"amqp:properties:list": _PROPERTIES,
    b"amqp:application-properties:map": _APPLICATION_PROPERTIES,
    b"amqp:data:binary": _DATA,
    b"amqp:amqp-sequence:list": _SEQUENCE,
    b"amqp:amqp-value:*": _VALUE,
}
"""The descriptors of the sections that the worker reads (AMQP 1.0 part 3, 3.2); senders use numbers or symbols."""
_SECTIONS = frozenset(_SYMBOLS.values())
_SMALL_ULONG = 0x53
_LISTS, _MAPS = (0x45, 0xC0, 0xD0), (0xC1, 0xD1)

_MAX_MILLISECONDS = 2**32 - 1
"""The largest time to live: the header's ttl is a uint (AMQP 1.0 part 3, 3.2.1)."""
_FIRST_TIME, _LAST_TIME = -62_135_596_800_000, 253_370_764_800_000
"""The years 1 to 9998 in milliseconds since 1970: Python's dates, with room for a time to live."""
_TIMES = (b"x-opt-enqueued-time", b"x-opt-locked-until", b"x-opt-scheduled-enqueue-time")
_SEQUENCE_NUMBER = b"x-opt-sequence-number"


_Map = dict[str | bytes, Any]  # the SDK's type of the maps; the keys are bytes


class DecodedMessage(NamedTuple):
    """A message in the SDK's form, and the names of the parts that were left out."""

    message: Message
    undecodable: tuple[str, ...]


class _Section(NamedTuple):
    kind: int | None
    """None for a section that the worker does not read."""
    start: int
    end: int


def decode_message(payload: bytes) -> DecodedMessage:
    """Decode the sections of an encoded message. It raises for no content."""
    return _MessageDecoder(payload).decode()


class _MessageDecoder:
    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._undecodable: dict[str, None] = {}
        self._body_values = ValueDecoder(payload, MAX_BODY_VALUES)

    def decode(self) -> DecodedMessage:
        found: dict[int, _Section] = {}
        body: list[_Section] = []
        try:
            for section in self._sections():
                if section.kind in _BODY:
                    body.append(section)
                elif section.kind is not None:
                    found.setdefault(section.kind, section)
        except BadValue:
            # Nothing says where the next section begins. What came before it is as sound as ever.
            body = []
            self._undecodable["body"] = None
        message = Message(
            header=self._header(found.get(_HEADER)),
            message_annotations=self._annotations(found.get(_ANNOTATIONS)),
            properties=self._properties(found.get(_PROPERTIES)),
            application_properties=self._application_properties(found.get(_APPLICATION_PROPERTIES)),
            **self._body(body),
        )
        return DecodedMessage(message, tuple(self._undecodable))

    def _sections(self) -> Iterator[_Section]:
        """Yield each section: a described value whose descriptor names its kind. Raises `BadValue`."""
        payload, at, end = self._payload, 0, len(self._payload)
        for _ in range(_MAX_SECTIONS):
            if at >= end:
                return
            if payload[at] != 0x00:
                raise BadValue(f"no section of a message begins at byte {at}")
            start = end_of(payload, at + 1, end)
            kind = self._kind(at + 1, start)
            at = end_of(payload, start, end)
            yield _Section(kind, start, at)
        raise BadValue("the message has too many sections")

    def _kind(self, at: int, end: int) -> int | None:
        if self._payload[at] == _SMALL_ULONG:
            descriptor: object = self._payload[at + 1]
        else:
            descriptor, _ = ValueDecoder(self._payload, 1).value(at, end)
        kind = _SYMBOLS.get(descriptor) if isinstance(descriptor, bytes) else descriptor
        return kind if isinstance(kind, int) and kind in _SECTIONS else None

    # --- the body ----------------------------------------------------------------------------------------------------

    def _body(self, sections: list[_Section]) -> dict[str, Any]:
        """Return the body as arguments of the SDK's message, with the values of all its sections.

        All have the same kind, and a value is alone (AMQP 1.0 part 3, 3.2). Other bodies have no certain meaning.
        """
        kind = sections[0].kind if sections else None
        if any(section.kind != kind for section in sections) or (kind == _VALUE and len(sections) > 1):
            self._undecodable["body"] = None
            return {}
        try:
            values = [self._body_value(section) for section in sections]
        except BadValue:
            self._undecodable["body"] = None
            return {}
        if kind == _VALUE:
            return {"value": values[0]}
        return {"data" if kind == _DATA else "sequence": values} if kind else {}

    def _body_value(self, section: _Section) -> object:
        if section.kind != _DATA and section.end - section.start > _MAX_VALUE_BYTES:
            raise BadValue("the value is too large")
        value, _ = self._body_values.value(section.start, section.end)
        if not isinstance(value, {_DATA: bytes, _SEQUENCE: list}.get(section.kind or _VALUE, object)):
            raise BadValue("a section of the body has a value of another type")
        return value

    # --- the sections before the body --------------------------------------------------------------------------------

    def _header(self, section: _Section | None) -> Header | None:
        if section is None:
            return None
        _, _, ttl, _, delivery_count = self._fields(section, 5, "header")
        return Header(
            ttl=self._whole(ttl, "header", most=_MAX_MILLISECONDS),
            delivery_count=self._whole(delivery_count, "header", most=_MAX_MILLISECONDS),
        )

    def _properties(self, section: _Section | None) -> Properties | None:
        return None if section is None else Properties(*self._fields(section, 13, "properties"))

    def _annotations(self, section: _Section | None) -> _Map | None:
        """Return the annotations; those with which the SDK calculates are numbers in their range."""
        if section is None:
            return None
        annotations = self._map(section, SYMBOL_CODES, "annotations")
        for name in (*_TIMES, _SEQUENCE_NUMBER):
            if name in annotations:
                least, most = (0, 2**63 - 1) if name == _SEQUENCE_NUMBER else (_FIRST_TIME, _LAST_TIME)
                annotations[name] = self._whole(annotations[name], "annotations", least=least, most=most)
        return annotations

    def _application_properties(self, section: _Section | None) -> _Map | None:
        return None if section is None else self._map(section, TEXT_CODES, "application properties")

    def _whole(self, value: object, part: str, *, least: int = 0, most: int) -> int | None:
        """Return the value if it is a whole number in this range, else None."""
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        if value is not None:
            self._undecodable[part] = None
        return None

    def _fields(self, section: _Section, count: int, part: str) -> list[Any]:
        """Return `count` fields of a list; None for an absent one, or one that is no simple value."""
        fields = [value for _, value in self._items(section, _LISTS, count, part)]
        return fields + [None] * (count - len(fields))

    def _map(self, section: _Section, key_codes: frozenset[int], part: str) -> _Map:
        """Return the entries of a map whose keys have one of these format codes."""
        entries: _Map = {}
        items = iter(self._items(section, _MAPS, 2 * MAX_PROPERTIES, part))
        for (code, key), (_, value) in zip(items, items, strict=False):
            if code in key_codes:
                entries[key] = value
            else:
                self._undecodable[part] = None
        return entries

    def _items(self, section: _Section, codes: tuple[int, ...], most: int, part: str) -> list[tuple[int, Any]]:
        """Return the format code and the value of each item of a section, as far as it is sound."""
        items, is_all = simple_items(self._payload, section.start, section.end, codes, most)
        if not is_all:
            self._undecodable[part] = None
        return items
