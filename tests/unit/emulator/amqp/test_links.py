"""Sessions and links: attach, credit, transfers, settlement, detach."""

import pytest

from servicebus_emulator.amqp import (
    Accepted,
    AmqpError,
    Array,
    Described,
    DispositionReceived,
    Error,
    FlowReceived,
    Limits,
    LinkAttaching,
    LinkDetached,
    MessageReceived,
    Modified,
    Rejected,
    SessionBegun,
    SessionEnded,
    Source,
    Symbol,
    Target,
)
from servicebus_emulator.amqp.framing import AMQP_HEADER
from servicebus_emulator.amqp.performatives import (
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Transfer,
)
from tests.unit.emulator.amqp.peer import Peer, closed_with, framed, only


def receiving(credit: int, *, delivery_count: int | None = 0, drain: bool = False, echo: bool = False) -> Flow:
    """Return a flow of a peer that receives on handle 0."""
    return Flow(0, 1_000, 0, 1_000, 0, delivery_count, credit, drain=drain, echo=echo)


def payloads(peer: Peer) -> list[bytes]:
    return [payload for _, performative, payload in peer.received() if isinstance(performative, Transfer)]


def test_a_peer_may_send_header_open_begin_and_attach_before_it_reads_an_answer() -> None:
    peer = Peer()
    attach = Attach("link", 5, RECEIVER, source=Source("queue"))
    frames = framed(Open("peer")) + framed(Begin(None, 0, 10, 10), 1) + framed(attach, 1) + framed(receiving(3), 1)
    events = peer.connection.receive(AMQP_HEADER + frames.replace(b"\x52\x05", b"\x52\x00"))
    assert [type(event).__name__ for event in events] == [
        "ConnectionOpened",
        "SessionBegun",
        "LinkAttaching",
        "FlowReceived",
    ]
    assert only(LinkAttaching, events).link.credit == 3


def test_the_answer_to_a_begin_names_the_peers_channel() -> None:
    peer = Peer().open()
    peer.channel = 7
    session = only(SessionBegun, peer.send(Begin(None, 42, 10, 10))).session
    assert peer.received() == [(0, Begin(7, 0, 65_536, 0x7FFF_FFFF, 255), b"")]
    assert peer.connection.sessions == (session,)


def test_both_ends_number_channels_and_handles_independently() -> None:
    peer = Peer().open()
    peer.begin(channel=900)
    peer.begin(channel=30)
    link = peer.attach(200, receives=True)
    link.accept(max_message_size=None)
    ((channel, attach, _),) = peer.received()
    assert channel == 1
    assert isinstance(attach, Attach)
    assert attach.handle == 0
    peer.send(Flow(0, 10, 0, 10, 200, 0, 1))
    link.send(b"x", tag=b"t", settled=True)
    ((channel, transfer, _),) = peer.received()
    assert channel == 1
    assert isinstance(transfer, Transfer)
    assert transfer.handle == 0


def test_accepting_a_receivers_link_echoes_its_attach() -> None:
    peer = Peer().open().begin()
    source = Source(
        "amqps://host/Queue", filter={"com.microsoft:session-filter": None}, outcomes=("amqp:accepted:list",)
    )
    attach = Attach("link-1", 3, RECEIVER, 0, 1, source, Target("client"), max_message_size=1_048_576)
    link = only(LinkAttaching, peer.send(attach)).link
    assert peer.received() == []
    assert not link.open
    assert not link.peer_is_sender
    assert link.attach == attach
    link.accept(max_message_size=None)
    answer = peer.received_only(Attach)
    assert answer == Attach(
        "link-1", 0, SENDER, 0, 1, source, Target("client"), initial_delivery_count=0, properties={}
    )
    assert link.open


def test_accepting_a_senders_link_states_the_maximum_message_size_and_the_given_fields() -> None:
    peer = Peer().open().begin()
    link = peer.attach(receives=False)
    assert link.peer_is_sender
    link.accept(max_message_size=262_144, source=Source("mine"), properties={"com.microsoft:locked-until-utc": 5})
    answer = peer.received_only(Attach)
    assert answer.role is RECEIVER
    assert answer.max_message_size == 262_144
    assert answer.initial_delivery_count is None
    assert (answer.source, answer.target) == (Source("mine"), Target("queue"))
    assert answer.properties == {"com.microsoft:locked-until-utc": 5}


def test_an_accepted_attach_always_has_a_source_and_a_target() -> None:
    peer = Peer().open().begin()
    link = only(LinkAttaching, peer.send(Attach("link", 0, SENDER))).link
    link.accept(max_message_size=1)
    answer = peer.received_only(Attach)
    assert (answer.source, answer.target) == (Source(), Target())


def test_a_described_filter_is_echoed_unchanged() -> None:
    peer = Peer().open().begin()
    described = {"com.microsoft:session-filter": Described(Symbol("com.microsoft:session-filter"), "s")}
    link = only(LinkAttaching, peer.send(Attach("link", 0, RECEIVER, source=Source("q", filter=described)))).link
    link.accept(max_message_size=None)
    answer = peer.received_only(Attach)
    assert answer.source is not None
    assert answer.source.filter == described


def test_a_refused_link_gets_an_attach_without_source_and_target_and_a_closing_detach() -> None:
    peer = Peer().open().begin()
    link = peer.attach(receives=True)
    error = Error("amqp:not-found", "no such queue")
    link.refuse(error)
    (_, attach, _), (_, detach, _) = peer.received()
    assert isinstance(attach, Attach)
    assert (attach.source, attach.target) == (None, None)
    assert detach == Detach(0, closed=True, error=error)
    assert not link.open
    assert peer.send(Detach(0, closed=True)) == []
    assert peer.received() == []


def test_detaching_a_link_that_was_not_accepted_refuses_it() -> None:
    peer = Peer().open().begin()
    link = peer.attach(receives=False)
    link.detach(Error("amqp:resource-limit-exceeded"))
    (_, attach, _), (_, detach, _) = peer.received()
    assert isinstance(attach, Attach)
    assert attach.target is None
    assert detach == Detach(0, closed=True, error=Error("amqp:resource-limit-exceeded"))


def test_an_answer_after_the_peers_detach_is_not_sent() -> None:
    peer = Peer().open().begin()
    link = peer.attach(receives=True)
    assert only(LinkDetached, peer.send(Detach(0, closed=True))).link is link
    (_, attach, _), (_, detach, _) = peer.received()
    assert isinstance(attach, Attach)
    assert attach.source is None
    assert detach == Detach(0, closed=True)
    link.accept(max_message_size=None)
    link.refuse(Error("com.microsoft:timeout"))
    link.grant(1)
    link.drained()
    link.detach()
    assert peer.received() == []
    assert not link.open


@pytest.mark.parametrize("after", [[End()], [Close()]])
def test_an_answer_after_the_end_of_its_session_or_connection_is_not_sent(after: list[End | Close]) -> None:
    peer = Peer().open().begin()
    link = peer.attach(receives=True)
    peer.send(*after)
    peer.received()
    link.accept(max_message_size=None)
    link.session.settle(False, 0, 0, Accepted())
    link.session.end()
    assert peer.received() == []
    assert not link.open


def test_sending_a_message_uses_one_credit() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=True)
    assert peer.send(receiving(2)) == [FlowReceived(link, drain=False, echo=False)]
    assert [link.send(b"one", tag=b"t1", settled=False), link.send(b"two", tag=b"t2", settled=True)] == [0, 1]
    assert peer.received() == [
        (0, Transfer(0, 0, b"t1", 0, False), b"one"),
        (0, Transfer(0, 1, b"t2", 0, True), b"two"),
    ]
    assert link.credit == 0
    with pytest.raises(AmqpError, match="no credit"):
        link.send(b"three", tag=b"t3", settled=True)


def test_we_cannot_send_on_a_link_that_the_peer_sends_on() -> None:
    link = Peer().open().begin().link(receives=False)
    link.grant(1)
    with pytest.raises(AmqpError):
        link.send(b"x", tag=b"t", settled=True)


def test_credit_counts_from_the_delivery_count_that_the_peer_has_seen() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=True)
    peer.send(receiving(5))
    for tag in (b"1", b"2", b"3"):
        link.send(b"x", tag=tag, settled=True)
    peer.send(receiving(5, delivery_count=1))
    assert link.credit == 3
    peer.send(receiving(5, delivery_count=3))
    assert link.credit == 5
    peer.send(receiving(0, delivery_count=3))
    assert link.credit == 0


def test_a_repeated_flow_does_not_change_the_credit() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=True)
    peer.send(receiving(5))
    link.send(b"x", tag=b"t", settled=True)
    peer.send(receiving(5))
    assert link.credit == 4


@pytest.mark.parametrize("initial", [0, 7, 0xFFFF_FFFF])
def test_credit_without_a_delivery_count_counts_from_the_initial_delivery_count(initial: int) -> None:
    peer = Peer().open().begin()
    link = peer.attach(receives=True)
    peer.send(receiving(2, delivery_count=None))
    link.accept(max_message_size=None, initial_delivery_count=initial)
    assert link.credit == 2
    link.send(b"x", tag=b"t", settled=True)
    peer.send(receiving(2, delivery_count=None))
    assert link.credit == 1
    peer.send(receiving(2, delivery_count=(initial + 1) % 2**32))
    assert link.credit == 2


def test_the_largest_possible_credit_is_valid() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=True)
    peer.send(receiving(0xFFFF_FFFF))
    assert link.credit > 1_000_000


def test_the_answer_to_a_drain_uses_up_the_credit_and_advances_the_delivery_count() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=True)
    assert peer.send(receiving(10, drain=True)) == [FlowReceived(link, drain=True, echo=False)]
    link.send(b"x", tag=b"t", settled=True)
    peer.received()
    link.drained()
    assert peer.received() == [(0, Flow(0, 65_536, 1, 0x7FFF_FFFF, 0, 10, 0, drain=True), b"")]
    assert link.credit == 0
    peer.send(receiving(3, delivery_count=10))
    assert link.credit == 3


def test_an_echo_on_a_link_is_answered_with_the_state_of_the_link() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=True)
    assert peer.send(receiving(4, echo=True)) == [FlowReceived(link, drain=False, echo=True)]
    assert peer.received() == [(0, Flow(0, 65_536, 0, 0x7FFF_FFFF, 0, 0, 4), b"")]


def test_an_echo_without_an_accepted_link_is_answered_with_the_state_of_the_session() -> None:
    peer = Peer().open().begin(next_outgoing_id=9)
    assert peer.send(Flow(0, 100, 9, 100, echo=True)) == []
    assert peer.received() == [(0, Flow(9, 65_536, 0, 0x7FFF_FFFF), b"")]
    peer.attach(receives=True)
    peer.send(receiving(4, echo=True))
    assert peer.received() == [(0, Flow(9, 65_536, 0, 0x7FFF_FFFF), b"")]


def test_only_the_first_frame_of_a_split_message_carries_its_id() -> None:
    peer = Peer().open(max_frame_size=512).begin()
    link = peer.link(receives=True)
    peer.send(receiving(2))
    message = bytes(range(256)) * 5
    link.send(message, tag=b"tag", settled=False, message_format=3)
    link.send(b"small", tag=b"t2", settled=False)
    chunks = peer.connection.take_output()
    peer.connection.output.write(b"".join(chunks))
    heard = [(frame, payload) for _, frame, payload in peer.received() if isinstance(frame, Transfer)]
    first, *rest, last, small = heard
    assert first[0] == Transfer(0, 0, b"tag", 3, False, more=True)
    assert [frame for frame, _ in rest] == [Transfer(0, more=True)] * len(rest)
    assert last[0] == Transfer(0)
    assert b"".join(payload for _, payload in heard[:-1]) == message
    assert small == (Transfer(0, 1, b"t2", 0, False), b"small")


@pytest.mark.parametrize("size", range(470, 500))
def test_no_frame_exceeds_the_peers_maximum_frame_size(size: int) -> None:
    peer = Peer().open(max_frame_size=512).begin()
    link = peer.link(receives=True)
    peer.send(receiving(1))
    link.send(bytes(size), tag=b"t" * 16, settled=False)
    (output,) = peer.connection.take_output()
    sizes = []
    while output:
        sizes.append(int.from_bytes(output[:4], "big"))
        output = output[sizes[-1] :]
    assert max(sizes) <= 512
    assert len(sizes) <= 2


def test_a_message_waits_while_the_session_window_is_closed() -> None:
    peer = Peer().open().begin(incoming_window=1)
    link = peer.link(receives=True)
    peer.send(Flow(0, 1, 0, 10, 0, 0, 10))
    for message in (b"one", b"two", b"three"):
        link.send(message, tag=message, settled=True)
    assert payloads(peer) == [b"one"]
    assert peer.connection.pending_output_bytes == 8
    peer.send(Flow(1, 1, 0, 10))
    assert payloads(peer) == [b"two"]
    peer.send(Flow(2, 5, 0, 10))
    assert payloads(peer) == [b"three"]
    assert peer.connection.pending_output_bytes == 0


def test_frames_under_way_count_against_the_peers_window() -> None:
    peer = Peer().open().begin(incoming_window=3)
    link = peer.link(receives=True)
    peer.send(Flow(0, 3, 0, 10, 0, 0, 10))
    for tag in b"abcdef":
        link.send(b"x", tag=bytes([tag]), settled=True)
    assert len(payloads(peer)) == 3
    peer.send(Flow(1, 3, 0, 10))
    assert len(payloads(peer)) == 1


def test_the_window_reopens_for_a_peer_that_counts_deliveries_instead_of_frames() -> None:
    peer = Peer().open(max_frame_size=512).begin(incoming_window=4)
    link = peer.link(receives=True)
    for delivery in range(10):
        peer.send(Flow(delivery, 4, 0, 10, 0, delivery, 1))
        link.send(bytes(1_200), tag=b"t", settled=True)
    for _ in range(10):
        peer.send(Flow(10, 4, 0, 10))
    assert sum(len(payload) for payload in payloads(peer)) == 12_000


def test_the_answer_to_a_drain_follows_the_messages_that_wait_for_the_window() -> None:
    peer = Peer().open().begin(incoming_window=1)
    link = peer.link(receives=True)
    peer.send(Flow(0, 1, 0, 10, 0, 0, 5, drain=True))
    link.send(b"one", tag=b"1", settled=True)
    link.send(b"two", tag=b"2", settled=True)
    link.drained()
    assert payloads(peer) == [b"one"]
    peer.send(Flow(1, 1, 0, 10))
    (_, transfer, payload), (_, flow, _) = peer.received()
    assert isinstance(transfer, Transfer)
    assert payload == b"two"
    assert isinstance(flow, Flow)
    assert (flow.delivery_count, flow.drain) == (5, True)


def test_detaching_a_link_discards_its_messages_that_wait_for_the_window() -> None:
    peer = Peer().open().begin(incoming_window=0)
    link, other = peer.link(0, receives=True), peer.link(1, receives=True)
    peer.send(Flow(0, 0, 0, 10, 0, 0, 5), Flow(0, 0, 0, 10, 1, 0, 5))
    link.send(b"gone", tag=b"1", settled=True)
    other.send(b"kept", tag=b"2", settled=True)
    link.detach()
    assert peer.received() == [(0, Detach(0, closed=True), b"")]
    peer.send(Flow(0, 10, 0, 10))
    assert payloads(peer) == [b"kept"]
    assert peer.connection.pending_output_bytes == 0


def test_granting_credit_states_the_credit_and_the_delivery_count() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=False)
    link.grant(2)
    assert peer.received() == [(0, Flow(0, 65_536, 0, 0x7FFF_FFFF, 0, 0, 2), b"")]
    peer.send(Transfer(0, 0, b"t", 0), payload=b"x")
    assert link.credit == 1
    link.grant(5)
    assert peer.received() == [(0, Flow(1, 65_535, 0, 0x7FFF_FFFF, 0, 1, 5), b"")]


def test_a_message_arrives_as_the_peer_sent_it() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=False)
    events = peer.send(Transfer(0, 9, b"\0\0\0\1", 0x8001_3700, settled=None), payload=b"bytes")
    assert events == [MessageReceived(link, 9, b"\0\0\0\1", False, 0x8001_3700, b"bytes")]


def test_a_message_sent_without_credit_is_accepted() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=False)
    assert only(MessageReceived, peer.send(Transfer(0, 0, b"t"), payload=b"x")).link is link
    assert link.credit == 0
    assert peer.received() == []


def test_a_senders_higher_delivery_count_reduces_its_credit() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=False)
    link.grant(10)
    peer.received()
    assert peer.send(Flow(0, 10, 0, 10, 0, 6, 4, echo=True)) == []
    assert link.credit == 4
    assert peer.received() == [(0, Flow(0, 65_536, 0, 0x7FFF_FFFF, 0, 6, 4), b"")]


@pytest.mark.parametrize("repeat_id", [True, False])
def test_a_message_in_many_frames_arrives_complete(repeat_id: bool) -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=False)
    link.grant(1)
    following = 4 if repeat_id else None
    assert peer.send(Transfer(0, 4, b"t", 0, more=True), payload=b"one ") == []
    assert peer.send(Transfer(0, following, more=True), payload=b"two ") == []
    assert link.credit == 1
    events = peer.send(Transfer(0, following, settled=True), payload=b"three")
    assert events == [MessageReceived(link, 4, b"t", True, 0, b"one two three")]
    assert link.credit == 0


def test_messages_in_many_frames_may_interleave_on_different_links() -> None:
    peer = Peer().open().begin()
    peer.link(0, receives=False)
    peer.link(1, receives=False)
    peer.send(Transfer(0, 0, b"a", more=True), Transfer(1, 1, b"b", more=True), payload=b"1")
    first = only(MessageReceived, peer.send(Transfer(1), payload=b"b"))
    second = only(MessageReceived, peer.send(Transfer(0), payload=b"a"))
    assert (first.payload, second.payload) == (b"1b", b"1a")


def test_an_aborted_message_is_discarded() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=False)
    peer.send(Transfer(0, 0, b"t", more=True), payload=b"half")
    assert peer.send(Transfer(0, more=True, aborted=True), payload=b"junk") == []
    assert peer.send(Transfer(0, 1, b"u"), payload=b"next") == [MessageReceived(link, 1, b"u", False, 0, b"next")]


@pytest.mark.parametrize("sizes", [[11], [5, 6], [5, 6, 100], [5, 5, 1]])
def test_a_message_above_the_limit_of_its_link_is_reported_without_its_payload(sizes: list[int]) -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=False, max_message_size=10)
    *parts, last = sizes
    for part in parts:
        assert peer.send(Transfer(0, 3, b"t", more=True), payload=bytes(part)) == []
    events = peer.send(Transfer(0, 3, b"t"), payload=bytes(last))
    assert events == [MessageReceived(link, 3, b"t", False, 0, b"", oversize=True)]
    assert not only(MessageReceived, peer.send(Transfer(0, 4, b"u"), payload=bytes(10))).oversize


def test_the_connections_message_limit_applies_if_the_link_has_none_or_a_higher_one() -> None:
    peer = Peer(Limits(max_message_size=10)).open().begin()
    peer.link(0, receives=False)
    peer.link(1, receives=False, max_message_size=1_000)
    for handle in (0, 1):
        assert only(MessageReceived, peer.send(Transfer(handle, handle, b"t"), payload=bytes(11))).oversize


def test_incomplete_messages_above_the_buffer_limit_close_the_connection() -> None:
    peer = Peer(Limits(max_buffered_bytes=100)).open().begin()
    peer.link(0, receives=False)
    peer.link(1, receives=False)
    for delivery in range(3):
        peer.send(Transfer(0, delivery, b"t", more=True), Transfer(0), payload=bytes(40))
    peer.send(Transfer(0, 3, b"t", more=True), payload=bytes(60))
    events = peer.send(Transfer(1, 4, b"t", more=True), payload=bytes(60))
    assert closed_with(events) == "amqp:resource-limit-exceeded"


def test_detaching_a_link_releases_the_buffer_of_its_partial_message() -> None:
    peer = Peer(Limits(max_buffered_bytes=100)).open().begin()
    for delivery in range(5):
        peer.link(0, receives=False)
        peer.send(Transfer(0, delivery, b"t", more=True), payload=bytes(90))
        assert only(LinkDetached, peer.send(Detach(0, closed=True))).closed


def test_the_incoming_window_is_refilled_when_half_of_it_is_used() -> None:
    peer = Peer(Limits(incoming_window=4)).open().begin(next_outgoing_id=0xFFFF_FFFF)
    peer.link(receives=False)
    peer.send(Transfer(0, 0, b"t"))
    assert peer.received() == []
    peer.send(Transfer(0, 1, b"t"))
    assert peer.received() == [(0, Flow(1, 4, 0, 0x7FFF_FFFF), b"")]


@pytest.mark.parametrize("state", [Accepted(), Rejected(), Rejected(Error("com.microsoft:message-lock-lost", "late"))])
def test_a_settlement_carries_the_role_the_range_and_the_state(state: Accepted | Rejected) -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=False)
    link.session.settle(True, 3, 4, state)
    assert peer.received() == [(0, Disposition(RECEIVER, 3, 4, True, state), b"")]


def test_the_peers_disposition_is_an_event() -> None:
    peer = Peer().open().begin()
    (session,) = peer.connection.sessions
    state = Modified(True, False, {Symbol("k"): Array([1])})
    assert peer.send(Disposition(RECEIVER, 5, None, False, state)) == [
        DispositionReceived(session, True, 5, 5, False, state)
    ]
    assert peer.send(Disposition(SENDER, 0, 0xFFFF_FFFF, True)) == [
        DispositionReceived(session, False, 0, 0xFFFF_FFFF, True, None)
    ]


@pytest.mark.parametrize("closed", [True, False])
def test_the_peers_detach_is_answered_and_frees_the_handle(closed: bool) -> None:
    peer = Peer().open().begin()
    link = peer.link(3, receives=True)
    error = Error("amqp:internal-error")
    assert peer.send(Detach(3, closed, error)) == [LinkDetached(link, closed, error)]
    assert peer.received() == [(0, Detach(0, closed), b"")]
    assert not link.open
    assert link.session.links == ()
    again = peer.link(3, receives=True)
    assert again.handle == 0
    assert again.open


def test_our_detach_keeps_the_handle_until_the_peer_detaches() -> None:
    peer = Peer().open().begin()
    link = peer.link(0, receives=False)
    link.detach(Error("com.microsoft:session-lock-lost", "gone"))
    assert peer.received() == [(0, Detach(0, True, Error("com.microsoft:session-lock-lost", "gone")), b"")]
    assert peer.send(Transfer(0, 0, b"t"), Flow(0, 9, 0, 9, 0, 0, 1), payload=b"late") == []
    assert peer.link(1, receives=False).handle == 1
    assert peer.send(Detach(0, closed=True)) == []
    assert peer.received() == []
    assert peer.link(0, receives=False).handle == 0


def test_frames_for_a_detached_link_are_ignored() -> None:
    peer = Peer().open().begin()
    peer.link(0, receives=False)
    peer.send(Detach(0, closed=True))
    peer.received()
    assert peer.send(Transfer(0, 0, b"t"), Flow(0, 9, 0, 9, 0, 0, 1), Detach(0, closed=True)) == []
    assert peer.received() == []


def test_the_peers_end_is_answered_and_closes_the_links_of_the_session() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=True)
    (session,) = peer.connection.sessions
    assert session is link.session
    error = Error("amqp:internal-error")
    assert peer.send(End(error)) == [SessionEnded(session, error)]
    assert peer.received() == [(0, End(), b"")]
    assert not session.open
    assert not link.open
    assert session.links == (link,)
    assert peer.connection.sessions == ()


def test_frames_after_the_end_of_their_session_are_ignored_until_the_channel_begins_again() -> None:
    peer = Peer().open().begin()
    peer.link(receives=False)
    peer.send(End())
    peer.received()
    assert peer.send(Detach(0, closed=True), Transfer(0, 0, b"t"), End()) == []
    assert peer.received() == []
    peer.begin()
    assert peer.link(receives=False).open


def test_our_end_keeps_the_channel_until_the_peer_ends() -> None:
    peer = Peer().open().begin()
    link = peer.link(receives=False)
    link.session.end(Error("amqp:internal-error", "why"))
    link.session.end()
    assert peer.received() == [(0, End(Error("amqp:internal-error", "why")), b"")]
    assert peer.send(Transfer(0, 0, b"t"), Detach(0)) == []
    assert link.session in peer.connection.sessions
    assert peer.send(End()) == []
    assert peer.received() == []
    assert link.session not in peer.connection.sessions


@pytest.mark.parametrize(
    ("frames", "condition"),
    [
        ([Transfer(9, 0, b"t")], "amqp:session:unattached-handle"),
        ([Flow(0, 9, 0, 9, 9, 0, 1)], "amqp:session:unattached-handle"),
        ([Attach("again", 0, RECEIVER)], "amqp:session:handle-in-use"),
        ([Transfer(0, 0, b"t")], "amqp:not-allowed"),
        ([Transfer(1)], "amqp:invalid-field"),
        ([Transfer(1, 0, b"t", more=True), Transfer(1, 1, b"t")], "amqp:not-allowed"),
    ],
)
def test_a_session_error_ends_the_session_and_not_the_connection(
    frames: list[Transfer | Flow | Attach], condition: str
) -> None:
    peer = Peer().open().begin()
    link = peer.link(0, receives=True)
    peer.link(1, receives=False)
    ended = only(SessionEnded, peer.send(*frames))
    assert ended.error is not None
    assert ended.error.condition == condition
    assert peer.received_only(End).error == ended.error
    assert not link.open
    assert not peer.connection.closed
    assert peer.send(End()) == []
    peer.begin()
    assert peer.link(0, receives=True).open


def test_a_handle_above_the_limit_closes_the_connection() -> None:
    peer = Peer(Limits(handle_max=1)).open().begin()
    peer.link(1, receives=True)
    assert closed_with(peer.send(Attach("link", 2, RECEIVER))) == "amqp:connection:framing-error"


def test_we_do_not_use_handles_above_the_peers_maximum() -> None:
    peer = Peer().open()
    peer.send(Begin(None, 0, 9, 9, handle_max=0))
    peer.attach(0, receives=True)
    ended = only(SessionEnded, peer.send(Attach("link", 1, RECEIVER)))
    assert ended.error is not None
    assert ended.error.condition == "amqp:not-allowed"


def test_events_before_a_protocol_error_are_reported_and_later_frames_are_ignored() -> None:
    peer = Peer().open().begin()
    peer.link(receives=False)
    good, bad = framed(Transfer(0, 0, b"t")), b"\x00\x00\x00\x0c\x02\x00\x00\x00junk"
    events = peer.connection.receive(good + bad + good)
    assert [type(event).__name__ for event in events] == ["MessageReceived", "ConnectionClosed"]


def test_a_coordinator_with_the_fields_of_a_target_is_a_decode_error() -> None:
    peer = Peer().open().begin()
    frame = framed(Attach("link", 0, SENDER, target=Target("x"))).replace(b"\x00\x53\x29", b"\x00\x53\x30")
    assert closed_with(peer.connection.receive(frame)) == "amqp:decode-error"
