"""Python stand-ins for the AMQP 1.0 types that Python has no type of its own for (part 1, section 1.6).

Each is a subclass of the nearest Python type, so that it compares and computes like it; the class is what
keeps the AMQP type across a decode and an encode.
"""

from dataclasses import dataclass


class UByte(int):
    """Unsigned, 8 bits."""

    __slots__ = ()


class UShort(int):
    """Unsigned, 16 bits."""

    __slots__ = ()


class UInt(int):
    """Unsigned, 32 bits."""

    __slots__ = ()


class ULong(int):
    """Unsigned, 64 bits."""

    __slots__ = ()


class Byte(int):
    """Signed, 8 bits."""

    __slots__ = ()


class Short(int):
    """Signed, 16 bits."""

    __slots__ = ()


class Int(int):
    """Signed, 32 bits."""

    __slots__ = ()


class Long(int):
    """Signed, 64 bits; what a bare ``int`` is encoded as."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since 1970-01-01T00:00Z, signed, 64 bits."""

    __slots__ = ()


class Float32(float):
    """IEEE 754 binary32; a bare ``float`` is a double."""

    __slots__ = ()


class Char(str):
    """One Unicode character."""

    __slots__ = ()


class Symbol(str):
    """A name from a constrained domain, ASCII only."""

    __slots__ = ()


class Decimal32(bytes):
    """IEEE 754 decimal32: its 4 bytes, not interpreted."""

    __slots__ = ()


class Decimal64(bytes):
    """IEEE 754 decimal64: its 8 bytes, not interpreted."""

    __slots__ = ()


class Decimal128(bytes):
    """IEEE 754 decimal128: its 16 bytes, not interpreted."""

    __slots__ = ()


class Array(tuple[object, ...]):
    """Elements of one and the same AMQP type."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor (a ulong code or a symbol) that says what it means."""

    descriptor: object
    value: object
