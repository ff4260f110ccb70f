"""Requests over links: the choice of the response link, and requests that cannot be answered."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from servicebus_emulator.amqp import Accepted, Int, Rejected, Source, Target
from servicebus_emulator.amqp.performatives import Attach, Detach, Disposition
from servicebus_emulator.amqp.sections import AMQP_VALUE, APPLICATION_PROPERTIES, PROPERTIES
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.links import management, response_link
from servicebus_emulator.servicebus.links.request_response import Request
from tests.unit.emulator.servicebus.client import Client, Namespace
from tests.unit.emulator.servicebus.rig import message, section

NODE = "q/$management"


def asking(bus: Namespace, target: str = "replies", *, source: str = NODE) -> Client:
    """A client with both links to the queue's management node: handle 0 for requests, 1 for responses."""
    client = bus.client()
    client.send_to(Target(NODE))
    client.say(Attach("answers", 1, True, source=Source(source), target=Target(target)))
    client.flow(1, 10)
    client.heard(Attach)
    return client


def request(
    operation: str, body: object, *, reply_to: str | None = "replies", more: Mapping[str, object] | None = None
) -> bytes:
    return (
        section(PROPERTIES, ["id", None, None, None, reply_to])
        + section(APPLICATION_PROPERTIES, {"operation": f"com.microsoft:{operation}", **(more or {})})
        + section(AMQP_VALUE, body)
    )


PEEK = {"from-sequence-number": 1, "message-count": 9}


def answered(client: Client) -> list[tuple[object, object]]:
    """Return the received responses: correlation ID and status."""
    return [
        (
            one.section(PROPERTIES)[5],  # type: ignore[index]  # a list
            one.section(APPLICATION_PROPERTIES)["statusCode"],  # type: ignore[index]  # a map
        )
        for one in client.deliveries()
    ]


@pytest.fixture
def bus() -> Namespace:
    running = Namespace(QueueSettings("q"), QueueSettings("other"))
    running.broker.find("q").send([message("a")])
    return running


@pytest.mark.parametrize("reply_to", ["replies", "answers", None, "somewhere else"])
def test_the_response_goes_to_the_link_named_by_reply_to_or_to_the_only_one(
    bus: Namespace, reply_to: str | None
) -> None:
    client = asking(bus)
    client.transfer(0, 0, request("peek-message", PEEK, reply_to=reply_to))
    assert client.only(Disposition).state == Accepted()
    assert answered(client) == [("id", 200)]


def test_additional_properties_of_sdks_are_ignored(bus: Namespace) -> None:
    client = asking(bus)
    more = {
        "associated-link-name": "r0",
        "com.microsoft:server-timeout": Int(1),
        "com.microsoft:tracking-id": "t",
        "type": "entity-mgmt",
    }
    client.transfer(0, 0, request("peek-message", PEEK, more=more))
    assert answered(client) == [("id", 200)]


def test_responses_wait_for_credit(bus: Namespace) -> None:
    client = asking(bus)
    client.flow(1, 0)
    client.transfer(0, 0, request("peek-message", PEEK))
    assert answered(client) == []
    client.flow(1, 1)
    assert answered(client) == [("id", 200)]


def test_a_peek_response_is_limited_in_size_and_the_client_peeks_on(bus: Namespace) -> None:
    bus.broker.find("other").send([message("x" * 250_000) for _ in range(20)])
    numbers, start = [], 1
    while True:
        asked = {"from-sequence-number": start, "message-count": 20}
        answer = management.respond(
            bus.broker.find("other"), Request("id", None, {"operation": "com.microsoft:peek-message"}, asked)
        )
        if answer.body is None:
            break
        numbers.append(len(answer.body["messages"]))  # type: ignore[index]  # a map
        start += numbers[-1]
    assert numbers == [16, 4]


def test_a_client_that_never_reads_its_responses_loses_the_link(
    bus: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_link, "MAX_WAITING_BYTES", 1000)
    client = asking(bus)
    client.flow(1, 0)
    for number in range(20):
        client.transfer(0, number, request("peek-message", PEEK))
    error = client.only(Detach).error
    assert error is not None
    assert error.condition == "amqp:resource-limit-exceeded"


@pytest.mark.parametrize(
    ("source", "payload", "condition"),
    [
        (NODE, b"no message", "com.microsoft:argument-error"),
        ("other/$management", request("peek-message", PEEK), "amqp:not-allowed"),
        (NODE, section(AMQP_VALUE, b"x" * 1_400_000), "amqp:link:message-size-exceeded"),
    ],
)
def test_a_request_without_a_response_link_is_rejected(
    bus: Namespace, source: str, payload: bytes, condition: str
) -> None:
    client = asking(bus, source=source)
    client.transfer(0, 0, payload)
    state = client.only(Disposition).state
    assert isinstance(state, Rejected)
    assert state.error is not None
    assert state.error.condition == condition
    assert answered(client) == []


def test_a_request_to_a_queue_deleted_meanwhile_gets_not_found(bus: Namespace) -> None:
    client = asking(bus)
    bus.broker.delete("q")
    client.transfer(0, 0, request("peek-message", PEEK))
    assert answered(client) == [("id", 404)]
