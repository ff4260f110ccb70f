"""Protocol headers, SASL, open and close."""

import pytest

from servicebus_emulator.amqp import Connection, ConnectionClosed, ConnectionOpened, Error, Limits
from servicebus_emulator.amqp.framing import (
    AMQP_HEADER,
    SASL_FRAME,
    SASL_HEADER,
    Frame,
    FrameDecoder,
    ProtocolHeader,
    frame_header,
)
from servicebus_emulator.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Open,
    SaslFrame,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
    decode_sasl,
    encode_frame_body,
)
from tests.unit.emulator.amqp.peer import Peer, closed_with, framed, only


def sasl(frame: SaslFrame) -> bytes:
    body = encode_frame_body(frame)
    return frame_header(len(body), 0, SASL_FRAME) + body


def sasl_frames(chunk: bytes) -> list[SaslFrame]:
    """Decode the SASL frames of a chunk, without the protocol header at its start."""
    decoder = FrameDecoder(2**16)
    decoder.feed(chunk if chunk.startswith(b"AMQP") else SASL_HEADER + chunk)
    items = []
    while (item := decoder.next()) is not None:
        if isinstance(item, Frame):
            assert item.kind == SASL_FRAME
            items.append(decode_sasl(item.body))
    return items


def test_the_server_offers_the_sasl_mechanisms_that_the_sdks_choose() -> None:
    connection = Connection("broker")
    assert connection.receive(SASL_HEADER) == []
    (answer,) = connection.take_output()
    assert answer.startswith(SASL_HEADER)
    assert sasl_frames(answer) == [SaslMechanisms(("MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"))]


@pytest.mark.parametrize("mechanism", ["MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"])
def test_any_offered_mechanism_is_accepted(mechanism: str) -> None:
    connection = Connection("broker")
    connection.receive(SASL_HEADER)
    connection.take_output()
    assert connection.receive(sasl(SaslInit(mechanism, b"\0user\0password"))) == []
    assert [sasl_frames(chunk) for chunk in connection.take_output()] == [[SaslOutcome(0)]]


@pytest.mark.parametrize(
    ("response", "name", "password"),
    [(b"\0user\0pass\0word", "user", "pass\0word"), (b"as\0user\0", "user", ""), (b"", "", ""), (None, "", "")],
)
def test_a_wrong_name_or_password_is_refused(response: bytes | None, name: str, password: str) -> None:
    checked: list[tuple[str, str]] = []

    def refuse(*both: str) -> bool:
        checked.append((both[0], both[1]))
        return False

    connection = Connection("broker", check_password=refuse)
    connection.receive(SASL_HEADER)
    connection.take_output()
    assert closed_with(connection.receive(sasl(SaslInit("PLAIN", response)))) == "amqp:unauthorized-access"
    assert [sasl_frames(chunk) for chunk in connection.take_output()] == [[SaslOutcome(1)]]
    assert checked == [(name, password)]


def test_an_unknown_sasl_mechanism_is_refused_and_closes_the_connection() -> None:
    connection = Connection("broker")
    connection.receive(SASL_HEADER)
    connection.take_output()
    events = connection.receive(sasl(SaslInit("KERBEROS")))
    assert closed_with(events) == "amqp:unauthorized-access"
    assert [sasl_frames(chunk) for chunk in connection.take_output()] == [[SaslOutcome(1)]]
    assert connection.closed


def test_the_sasl_outcome_travels_in_a_separate_chunk_even_if_the_peer_sends_everything_at_once() -> None:
    connection = Connection("broker")
    conversation = SASL_HEADER + sasl(SaslInit("ANONYMOUS")) + AMQP_HEADER + framed(Open("peer"))
    assert connection.receive(conversation) == [ConnectionOpened()]
    mechanisms, outcome, rest = connection.take_output()
    assert sasl_frames(mechanisms) == [SaslMechanisms(("MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"))]
    assert sasl_frames(outcome) == [SaslOutcome(0)]
    assert rest.startswith(AMQP_HEADER)


def test_the_amqp_header_is_accepted_without_sasl() -> None:
    connection = Connection("broker")
    connection.receive(AMQP_HEADER)
    assert connection.take_output() == [AMQP_HEADER]
    assert not connection.closed


@pytest.mark.parametrize("header", [b"AMQP\x02\x01\x00\x00", b"AMQP\x00\x00\x09\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_an_unknown_header_is_answered_with_the_amqp_header_and_closes_the_connection(header: bytes) -> None:
    connection = Connection("broker")
    assert closed_with(connection.receive(header)) == "amqp:connection:framing-error"
    assert connection.take_output() == [AMQP_HEADER]
    assert connection.closed


@pytest.mark.parametrize(
    "data",
    [
        SASL_HEADER + framed(Open("peer")),
        SASL_HEADER + sasl(SaslResponse(b"")),
        SASL_HEADER + sasl(SaslInit("ANONYMOUS")) + SASL_HEADER,
        AMQP_HEADER + sasl(SaslInit("ANONYMOUS")),
        SASL_HEADER + frame_header(0, 0, SASL_FRAME),
    ],
)
def test_sasl_frames_out_of_order_close_the_connection(data: bytes) -> None:
    connection = Connection("broker")
    only(ConnectionClosed, connection.receive(data))
    assert connection.closed


def test_the_answer_to_an_open_states_our_limits() -> None:
    connection = Connection("broker", Limits(channel_max=9))
    events = connection.receive(AMQP_HEADER + framed(Open("peer", "host", 1_048_576, idle_time_out=60_000)))
    assert events == [ConnectionOpened()]
    peer = Peer()
    peer.connection = connection
    answer = peer.received_only(Open)
    assert answer == Open("broker", None, 65_536, 9, 240_000, properties={})
    assert connection.remote_open == Open("peer", "host", 1_048_576, idle_time_out=60_000)
    assert connection.peer_idle_timeout_ms == 60_000


@pytest.mark.parametrize("timeout", [None, 0])
def test_a_peer_without_an_idle_timeout_never_times_out(timeout: int | None) -> None:
    assert Peer().open(idle_time_out=timeout).connection.peer_idle_timeout_ms is None


def test_a_heartbeat_is_an_empty_frame() -> None:
    peer = Peer().open()
    peer.connection.heartbeat()
    assert peer.connection.take_output() == [bytes.fromhex("00000008 02000000")]


def test_heartbeats_of_the_peer_are_not_answered() -> None:
    peer = Peer().open()
    assert peer.connection.receive(frame_header(0, 0) * 3) == []
    assert peer.decoded_items() == []


def test_no_heartbeat_is_sent_before_open_or_after_close() -> None:
    connection = Connection("broker")
    connection.heartbeat()
    assert connection.take_output() == []
    peer = Peer().open()
    peer.connection.close()
    peer.received()
    peer.connection.heartbeat()
    assert peer.decoded_items() == []


def test_the_peers_close_is_answered_and_later_frames_are_ignored() -> None:
    peer = Peer().open()
    error = Error("amqp:internal-error", "tired", {"why": "late"})
    assert peer.send(Close(error), Begin(None, 0, 1, 1)) == [ConnectionClosed(error)]
    assert peer.received() == [(0, Close(), b"")]
    assert peer.connection.closed
    assert peer.send(Begin(None, 0, 1, 1)) == []
    assert peer.decoded_items() == []


def test_our_close_carries_the_error_and_is_sent_once() -> None:
    peer = Peer().open()
    peer.connection.close(Error("amqp:connection:forced", "shutting down"))
    peer.connection.close()
    assert peer.received() == [(0, Close(Error("amqp:connection:forced", "shutting down")), b"")]
    assert peer.connection.closed


def test_a_close_before_the_peers_open_sends_our_open_first() -> None:
    connection = Connection("broker")
    assert closed_with(connection.receive(AMQP_HEADER + framed(Begin(None, 0, 1, 1)))) == "amqp:illegal-state"
    peer = Peer()
    peer.connection = connection
    header, *_ = items = peer.decoded_items()
    assert header == ProtocolHeader(AMQP_HEADER)
    assert len(items) == 3


@pytest.mark.parametrize(
    ("frame", "condition"),
    [
        (framed(Open("again")), "amqp:illegal-state"),
        (framed(Attach("x", 0, True)), "amqp:illegal-state"),
        (framed(Begin(3, 0, 1, 1)), "amqp:not-allowed"),
        (framed(Begin(None, 0, 1, 1), 1_024), "amqp:connection:framing-error"),
        (framed(Begin(None, 0, 1, 1)) * 2, "amqp:illegal-state"),
        (frame_header(4, 0) + b"junk", "amqp:decode-error"),
        (frame_header(0, 0, kind=2), "amqp:connection:framing-error"),
        (frame_header(70_000, 0), "amqp:connection:framing-error"),
        (frame_header(4, 0) + bytes.fromhex("00531045"), "amqp:decode-error"),
        (frame_header(4, 0) + bytes.fromhex("00532545"), "amqp:decode-error"),
        (frame_header(4, 0) + bytes.fromhex("00539945"), "amqp:decode-error"),
        (frame_header(6, 0) + bytes.fromhex("005317c00101"), "amqp:decode-error"),
        (frame_header(8, 0) + bytes.fromhex("005317c003024040"), "amqp:decode-error"),
        (frame_header(7, 0) + bytes.fromhex("005318c0020141"), "amqp:decode-error"),
    ],
)
def test_a_protocol_error_closes_the_connection_with_its_condition(frame: bytes, condition: str) -> None:
    peer = Peer().open()
    assert closed_with(peer.connection.receive(frame)) == condition
    close = peer.received_only(Close)
    assert close.error is not None
    assert close.error.condition == condition
    assert close.error.description
    assert peer.connection.closed


def test_the_error_names_the_field_with_the_wrong_type() -> None:
    peer = Peer().open()
    (closed,) = peer.connection.receive(framed(Open("x")).replace(b"\xa1\x01x", b"\xa0\x01x"))
    assert isinstance(closed, ConnectionClosed)
    assert closed.error is not None
    assert closed.error.description == "open.container_id: expected a string, got bytes"


@pytest.mark.parametrize(("name", "value"), [("max_frame_size", 511), ("channel_max", 65_536), ("idle_timeout_ms", 0)])
def test_a_limit_that_the_protocol_cannot_carry_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Limits(**{name: value})
