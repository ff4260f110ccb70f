"""For any input the connection returns events and valid frames: no exception, no hang, no invalid output."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.amqp import (
    Accepted,
    Connection,
    ConnectionClosed,
    DispositionReceived,
    Event,
    FlowReceived,
    LinkAttaching,
    MessageReceived,
    Source,
)
from servicebus_emulator.amqp.framing import (
    AMQP_FRAME,
    AMQP_HEADER,
    HEADER_SIZE,
    SASL_FRAME,
    SASL_HEADER,
    Frame,
    FrameDecoder,
    frame_header,
)
from servicebus_emulator.amqp.performatives import (
    RECEIVER,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    SaslInit,
    SaslOutcome,
    Transfer,
    decode_performative,
    decode_sasl,
    encode_frame_body,
)
from tests.unit.emulator.amqp import strategies
from tests.unit.emulator.amqp.peer import framed

CONVERSATION = b"".join(
    [
        AMQP_HEADER,
        framed(Open("peer", "host", 512, properties={"product": "p"})),
        framed(Begin(None, 0, 2, 10), 1),
        framed(Attach("in", 0, True, source=Source("queue", filter={"f": None})), 1),
        framed(Attach("out", 1, False, initial_delivery_count=0), 1),
        framed(Flow(0, 2, 0, 10, 0, 0, 5, echo=True), 1),
        framed(Transfer(1, 0, b"tag", 0, more=True), 1, b"one"),
        framed(Transfer(1), 1, b"two"),
        framed(Disposition(RECEIVER, 0, 1, False, Accepted()), 1),
        framed(Flow(1, 2, 1, 10, 0, 1, 5, drain=True), 1),
        frame_header(0, 0),
        framed(Detach(0, closed=True), 1),
        framed(End(), 1),
        framed(Close()),
    ]
)


def converse(connection: Connection, chunks: Iterable[bytes]) -> list[Event]:
    """Feed the chunks, answer every event as a broker does, and check the invariants after each chunk."""
    events: list[Event] = []
    output = b""
    for chunk in chunks:
        new = connection.receive(chunk)
        for event in new:
            answer(event)
        connection.heartbeat()
        output += b"".join(connection.take_output())
        events += new
    check_output(output)
    closings = [event for event in events if isinstance(event, ConnectionClosed)]
    assert closings == [event for event in events[-1:] if connection.closed]
    assert all(not link.open for session in connection.sessions for link in session.links if connection.closed)
    return events


def answer(event: Event) -> None:
    match event:
        case LinkAttaching(link):
            link.accept(max_message_size=1_000)
            link.grant(10)
        case FlowReceived(link, drain):
            for _ in range(min(2, link.credit)):
                if link.open:
                    link.send(bytes(700), tag=b"t", settled=False)
            if drain:
                link.drained()
        case MessageReceived(link, delivery_id):
            link.session.settle(True, delivery_id, delivery_id, Accepted())
        case DispositionReceived(session, _, first, last, _, state):
            session.settle(False, first, last, state)


def check_output(output: bytes) -> None:
    """Assert that the output consists of complete protocol headers and decodable frames."""
    decoder = FrameDecoder(2**20)
    decoder.feed(output)
    size = 0
    while (item := decoder.next()) is not None:
        size += HEADER_SIZE
        if isinstance(item, Frame):
            size += len(item.body)
            if item.kind == AMQP_FRAME and item.body:
                decode_performative(item.body)
            elif item.kind == SASL_FRAME and isinstance(decode_sasl(item.body), SaslOutcome):
                decoder.expect_header()
    assert size == len(output)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def test_the_conversation_that_other_tests_corrupt_is_valid() -> None:
    connection = Connection("broker")
    names = [type(event).__name__ for event in converse(connection, pieces(CONVERSATION, 7))]
    assert names == [
        "ConnectionOpened",
        "SessionBegun",
        "LinkAttaching",
        "LinkAttaching",
        "FlowReceived",
        "MessageReceived",
        "DispositionReceived",
        "FlowReceived",
        "LinkDetached",
        "SessionEnded",
        "ConnectionClosed",
    ]


@given(st.lists(st.binary(max_size=60), max_size=5))
@settings(deadline=None, max_examples=150)
def test_arbitrary_bytes_at_the_start(chunks: list[bytes]) -> None:
    converse(Connection("broker"), chunks)


@given(st.lists(st.binary(max_size=60), max_size=5))
@settings(deadline=None, max_examples=150)
def test_arbitrary_bytes_after_a_valid_start(chunks: list[bytes]) -> None:
    converse(Connection("broker"), [CONVERSATION[: CONVERSATION.index(framed(Close()))], *chunks])


@given(st.lists(st.binary(max_size=60), max_size=5))
@settings(deadline=None, max_examples=100)
def test_arbitrary_bytes_in_the_middle_of_sasl(chunks: list[bytes]) -> None:
    init = encode_frame_body(SaslInit("ANONYMOUS"))
    converse(Connection("broker"), [SASL_HEADER, *chunks])
    converse(Connection("broker"), [SASL_HEADER, frame_header(len(init), 0, SASL_FRAME) + init, *chunks])


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=60)), max_size=6))
@settings(deadline=None, max_examples=150)
def test_frames_with_arbitrary_bodies(bodies: list[tuple[int, bytes]]) -> None:
    frames = b"".join(frame_header(len(body), channel) + body for channel, body in bodies)
    converse(Connection("broker"), [AMQP_HEADER + framed(Open("peer")) + framed(Begin(None, 0, 2, 10)), frames])


@given(
    st.lists(
        st.tuples(st.integers(8, len(CONVERSATION) - 1), st.integers(0, 255), st.sampled_from(["set", "drop", "add"])),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 200),
)
@settings(deadline=None, max_examples=300)
def test_a_valid_conversation_with_some_bytes_changed(changes: list[tuple[int, int, str]], size: int) -> None:
    spoilt = bytearray(CONVERSATION)
    for place, octet, how in changes:
        at = min(place, len(spoilt) - 1)
        spoilt[at : at + (how != "add")] = b"" if how == "drop" else bytes([octet])
    converse(Connection("broker"), pieces(bytes(spoilt), size))


@given(st.integers(0, len(CONVERSATION) - 1), st.integers(1, 100))
@settings(deadline=None, max_examples=60)
def test_a_valid_conversation_cut_short(end: int, size: int) -> None:
    assert not [
        event
        for event in converse(Connection("broker"), pieces(CONVERSATION[:end], size))
        if isinstance(event, ConnectionClosed)
    ]


small = st.integers(0, 3)
plausible: st.SearchStrategy[Performative] = st.one_of(
    strategies.any_performative,
    st.builds(Begin, st.none(), small, small, small),
    st.builds(Attach, strategies.ascii_text, small, st.booleans(), initial_delivery_count=small),
    st.builds(
        Flow,
        small,
        small,
        small,
        small,
        st.none() | small,
        st.none() | small,
        small,
        small,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        Transfer,
        small,
        st.none() | small,
        st.binary(max_size=4),
        small,
        st.booleans(),
        st.booleans(),
        aborted=st.booleans(),
    ),
    st.builds(Disposition, st.booleans(), small, small, st.booleans(), st.none() | strategies.outcomes),
    st.builds(Detach, small, st.booleans()),
    st.just(End()),
)


@given(st.lists(st.tuples(st.integers(0, 1), plausible, st.binary(max_size=30)), max_size=20))
@settings(deadline=None, max_examples=300)
def test_valid_frames_in_any_order(frames: list[tuple[int, Performative, bytes]]) -> None:
    start = AMQP_HEADER + framed(Open("peer", max_frame_size=512)) + framed(Begin(None, 0, 2, 10))
    spoken = [
        framed(frame, channel, payload if isinstance(frame, Transfer) else b"") for channel, frame, payload in frames
    ]
    converse(Connection("broker"), [start, *spoken])
