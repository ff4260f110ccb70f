"""Frames and protocol headers, in chunks of any size."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.amqp import AmqpError
from servicebus_emulator.amqp.framing import AMQP_HEADER, Frame, FrameDecoder, ProtocolHeader, frame_header
from servicebus_emulator.amqp.output import Output


def decoded(*chunks: bytes, max_frame_size: int = 1_000) -> list[ProtocolHeader | Frame]:
    decoder = FrameDecoder(max_frame_size)
    items = []
    for chunk in chunks:
        decoder.feed(chunk)
        while (item := decoder.next()) is not None:
            items.append(item)
    return items


STREAM = AMQP_HEADER + frame_header(3, 7) + b"abc" + frame_header(0, 0) + frame_header(1, 65_535, kind=1) + b"z"
ITEMS = [ProtocolHeader(AMQP_HEADER), Frame(0, 7, b"abc"), Frame(0, 0, b""), Frame(1, 65_535, b"z")]


@given(st.lists(st.integers(0, len(STREAM)), max_size=6).map(sorted))
@settings(deadline=None, max_examples=60)
def test_the_decoder_returns_the_same_frames_for_any_chunks(cuts: list[int]) -> None:
    edges = [0, *cuts, len(STREAM)]
    assert decoded(*(STREAM[start:end] for start, end in pairwise(edges))) == ITEMS


def test_the_decoder_returns_the_same_frames_byte_by_byte() -> None:
    assert decoded(*(bytes([octet]) for octet in STREAM)) == ITEMS


def test_an_extended_header_is_skipped() -> None:
    frame = b"\x00\x00\x00\x0e\x03\x00\x00\x05" + b"skip" + b"ok"
    assert decoded(AMQP_HEADER + frame)[1] == Frame(0, 5, b"ok")


@pytest.mark.parametrize(
    "header",
    [
        b"\x00\x00\x00\x07\x02\x00\x00\x00",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x00\x00\x00\x08\x01\x00\x00\x00",
        b"\x00\x00\x00\x08\x03\x00\x00\x00",
        b"\x00\x00\x03\xe9\x02\x00\x00\x00",
        b"\xff\xff\xff\xff\x02\x00\x00\x00",
    ],
)
def test_an_invalid_frame_size_is_a_framing_error_before_the_body_arrives(header: bytes) -> None:
    with pytest.raises(AmqpError, match="framing-error"):
        decoded(AMQP_HEADER + header)


def test_a_frame_may_have_the_maximum_size() -> None:
    assert len(decoded(AMQP_HEADER + frame_header(992, 0) + bytes(992))) == 2


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\n", b"AMXP", b"\x16\x03\x01"])
def test_bytes_that_cannot_start_a_protocol_header_are_returned_before_eight_bytes_arrive(start: bytes) -> None:
    decoder = FrameDecoder(1_000)
    decoder.feed(start)
    assert decoder.next() == ProtocolHeader(start[:8])


def test_frames_share_a_chunk_until_the_output_is_sealed() -> None:
    output = Output()
    output.write(b"one")
    output.write(b"two")
    output.seal()
    output.write(b"three")
    assert output.pending_bytes == 11
    assert output.take() == [b"onetwo", b"three"]
    assert output.take() == []
    assert output.pending_bytes == 0
