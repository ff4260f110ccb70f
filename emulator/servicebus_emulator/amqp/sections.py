"""The positions of the sections in an encoded message, found without decoding them (part 3, section 3.2).

A broker forwards most sections byte for byte. Skipping them also avoids the cost of decoding large bodies.
"""

import struct

from servicebus_emulator.amqp.decoder import MAX_NESTING, decode
from servicebus_emulator.amqp.errors import DecodeError

HEADER = 0x70
DELIVERY_ANNOTATIONS = 0x71
MESSAGE_ANNOTATIONS = 0x72
PROPERTIES = 0x73
APPLICATION_PROPERTIES = 0x74
DATA = 0x75
AMQP_SEQUENCE = 0x76
AMQP_VALUE = 0x77
FOOTER = 0x78

_SYMBOLS = {
    "amqp:header:list": HEADER,
    "amqp:delivery-annotations:map": DELIVERY_ANNOTATIONS,
    "amqp:message-annotations:map": MESSAGE_ANNOTATIONS,
    "amqp:properties:list": PROPERTIES,
    "amqp:application-properties:map": APPLICATION_PROPERTIES,
    "amqp:data:binary": DATA,
    "amqp:amqp-sequence:list": AMQP_SEQUENCE,
    "amqp:amqp-value:*": AMQP_VALUE,
    "amqp:footer:map": FOOTER,
}

_SIZE32 = struct.Struct(">I")
_FIXED_WIDTH = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_SIZE8 = frozenset({0xA, 0xC, 0xE})


def split(payload: bytes) -> list[tuple[int, int, int]]:
    """Return the sections of a message in their order, each as (descriptor code, start, end).

    ``payload[start:end]`` is the whole section: a described value with its descriptor. Only the extent of a section
    is checked, not its content. Raises DecodeError if the payload is not a sequence of message sections.
    """
    sections = []
    offset = 0
    while offset < len(payload):
        code, value_at = _descriptor(payload, offset)
        end = _skip(payload, value_at)
        sections.append((code, offset, end))
        offset = end
    return sections


def _descriptor(payload: bytes, offset: int) -> tuple[int, int]:
    if payload[offset] != 0:
        raise DecodeError(f"no message section starts at byte {offset}")
    descriptor, value_at = decode(payload, offset + 1)
    code = _SYMBOLS.get(descriptor) if isinstance(descriptor, str) else descriptor
    if isinstance(code, int) and HEADER <= code <= FOOTER:
        return code, value_at
    raise DecodeError(f"the described value at byte {offset} is not a message section")


def _skip(data: bytes, offset: int, depth: int = 0) -> int:
    """Return the offset after the value at ``offset``.

    The upper half of a constructor gives the width of the value, whatever its type (part 1, section 1.2).
    """
    try:
        end = _end(data, offset, depth)
    except (IndexError, struct.error) as error:
        raise DecodeError("the message ends in the middle of a section") from error
    if end > len(data):
        raise DecodeError("the message ends in the middle of a section")
    return end


def _end(data: bytes, offset: int, depth: int) -> int:
    if depth > MAX_NESTING:
        raise DecodeError(f"values are nested more than {MAX_NESTING} deep")
    constructor = data[offset]
    if constructor == 0:
        return _skip(data, _skip(data, offset + 1, depth + 1), depth + 1)
    category = constructor >> 4
    if category in _FIXED_WIDTH:
        return offset + 1 + _FIXED_WIDTH[category]
    if category in _SIZE8:
        return offset + 2 + data[offset + 1]
    if category > 0x9:
        return offset + 5 + int(_SIZE32.unpack_from(data, offset + 1)[0])
    raise DecodeError(f"{constructor:#04x} is not a constructor of AMQP")
