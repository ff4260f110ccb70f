"""Hypothesis strategies for AMQP values and performatives."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

from servicebus_emulator.amqp import (
    Accepted,
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Error,
    Float32,
    Int,
    Long,
    Modified,
    Outcome,
    Received,
    Rejected,
    Released,
    Short,
    Source,
    Symbol,
    Target,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)
from servicebus_emulator.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    SaslFrame,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Transfer,
)

T = TypeVar("T")


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


def signed(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


ascii_text = st.text(st.characters(codec="ascii"), max_size=20)
symbols = ascii_text.map(Symbol)
strings = st.text(max_size=20) | st.text("é", min_size=250, max_size=260)
numbers: dict[type, st.SearchStrategy[object]] = {
    UByte: unsigned(8).map(UByte),
    UShort: unsigned(16).map(UShort),
    UInt: unsigned(32).map(UInt),
    ULong: unsigned(64).map(ULong),
    Byte: signed(8).map(Byte),
    Short: signed(16).map(Short),
    Int: signed(32).map(Int),
    Long: signed(64).map(Long),
    Timestamp: signed(64).map(Timestamp),
    Float32: st.floats(width=32, allow_nan=False).map(Float32),
    float: st.floats(allow_nan=False),
}
scalars: dict[type, st.SearchStrategy[object]] = {
    **numbers,
    bool: st.booleans(),
    str: strings,
    Symbol: symbols,
    bytes: st.binary(max_size=300),
    Char: st.characters(codec="utf-8").map(Char),
    Decimal32: st.binary(min_size=4, max_size=4).map(Decimal32),
    Decimal64: st.binary(min_size=8, max_size=8).map(Decimal64),
    Decimal128: st.binary(min_size=16, max_size=16).map(Decimal128),
}
uuids = st.uuids()
any_scalar: st.SearchStrategy[object] = st.none() | uuids | st.one_of(*scalars.values())
map_keys: st.SearchStrategy[object] = st.one_of(strings, symbols, uuids, *(numbers[kind] for kind in (UInt, Long)))


def nested(leaves: st.SearchStrategy[object], array_items: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Return a strategy for ``leaves`` nested in lists, maps and descriptors. ``array_items`` are complete arrays."""
    return st.recursive(
        leaves | array_items,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(map_keys, inner, max_size=4)
            | st.builds(Described, symbols | unsigned(64).filter(lambda code: code > 0xFF).map(ULong), inner)
        ),
        max_leaves=8,
    )


def array_of(*kinds: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(*(st.lists(kind, min_size=1, max_size=5).map(Array) for kind in kinds))


values = nested(
    any_scalar,
    array_of(
        uuids,
        *scalars.values(),
        st.lists(any_scalar, max_size=3),
        st.dictionaries(map_keys, any_scalar, max_size=3),
        array_of(uuids, strings),
        st.builds(Described, st.just(ULong(999)), strings),
    )
    | st.just(Array()),
)

_CHOICES: dict[str, st.SearchStrategy[object]] = {
    "container_id": strings,
    "name": strings,
    "hostname": st.none() | strings,
    "address": st.none() | strings,
    "max_frame_size": st.integers(512, 2**32 - 1),
    "channel_max": unsigned(16),
    "remote_channel": st.none() | unsigned(16),
    "snd_settle_mode": st.integers(0, 2),
    "rcv_settle_mode": st.integers(0, 1),
    "max_message_size": st.none() | unsigned(64),
    "delivery_tag": st.none() | st.binary(max_size=32),
    "expiry_policy": st.sampled_from(["link-detach", "session-end", "connection-close", "never"]),
    "distribution_mode": st.none() | st.sampled_from(["move", "copy"]),
    "dynamic_node_properties": st.none(),
    "unsettled": st.none(),
}
_SYMBOL_LISTS = {"outgoing_locales", "incoming_locales", "offered_capabilities", "desired_capabilities", "outcomes"}
_SYMBOL_LISTS |= {"capabilities", "sasl_server_mechanisms"}
_MAPS = {"properties", "filter", "info"}
_FLAGS = {"drain", "echo", "more", "resume", "aborted", "batchable", "role", "closed", "dynamic"}
_FLAGS |= {"incomplete_unsettled", "settled"}

_fields = st.none() | st.dictionaries(ascii_text, signed(32) | strings | st.booleans(), min_size=1, max_size=3)
errors = st.builds(Error, ascii_text, st.none() | strings, _fields)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Accepted()),
    st.just(Released()),
    st.builds(Rejected, st.none() | errors),
    st.builds(Modified, st.booleans(), st.booleans(), st.none()),
    st.builds(Received, unsigned(32), unsigned(64)),
)


def _field(name: str, kind: Callable[..., object]) -> st.SearchStrategy[object]:
    if name in _CHOICES:
        return _CHOICES[name]
    if name in _SYMBOL_LISTS:
        return st.lists(ascii_text, min_size=int(kind is SaslMechanisms), max_size=3).map(tuple)
    if name in _MAPS:
        return _fields
    if name in _FLAGS:
        return st.booleans()
    if name in ("state", "default_outcome"):
        return st.none() | outcomes
    if name == "error":
        return st.none() | errors
    return unsigned(32)


def every_field(kind: Callable[..., T], **given: st.SearchStrategy[object]) -> st.SearchStrategy[T]:
    """Return a strategy for instances of the dataclass ``kind`` with all fields drawn."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # `kind` is a dataclass
    return st.builds(kind, **{name: given[name] if name in given else _field(name, kind) for name in names})


sources = every_field(Source)
targets = every_field(Target)
performatives: dict[type, st.SearchStrategy[Performative]] = {
    Open: every_field(Open),
    Begin: every_field(Begin),
    Attach: every_field(Attach, source=st.none() | sources, target=st.none() | targets),
    Flow: every_field(Flow),
    Transfer: every_field(Transfer),
    Disposition: every_field(Disposition),
    Detach: every_field(Detach),
    End: every_field(End),
    Close: every_field(Close),
}
any_performative: st.SearchStrategy[Performative] = st.one_of(*performatives.values())
sasl_frames: st.SearchStrategy[SaslFrame] = st.one_of(
    every_field(SaslMechanisms),
    st.builds(SaslInit, ascii_text, st.none() | st.binary(max_size=20), st.none() | strings),
    st.builds(SaslOutcome, st.integers(0, 4), st.none() | st.binary(max_size=20)),
)
