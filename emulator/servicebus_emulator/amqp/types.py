"""Python types for the AMQP 1.0 types that Python lacks (part 1, section 1.6).

Each class is a subclass of the nearest Python type, so it compares and computes like that type. The class preserves
the AMQP type between decoding and encoding: a uint that arrives must not leave as a long.
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
    """Signed, 64 bits. A plain ``int`` is encoded as this type."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since 1970-01-01T00:00Z, signed, 64 bits."""

    __slots__ = ()


class Float32(float):
    """IEEE 754 binary32. A plain ``float`` is encoded as a double."""

    __slots__ = ()


class Char(str):
    """One Unicode character."""

    __slots__ = ()


class Symbol(str):
    """A name from a fixed vocabulary, ASCII only."""

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
    """Elements of one AMQP type."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor (a ulong code or a symbol) that gives its meaning."""

    descriptor: object
    value: object
