"""The rights of a connection, and the links and requests that need them."""

from __future__ import annotations

import asyncio

import pytest

from servicebus_emulator.amqp import Target
from servicebus_emulator.amqp.sections import AMQP_VALUE, APPLICATION_PROPERTIES
from servicebus_emulator.servicebus.access import UNCHECKED, Authorizer, ConnectionRights, Right
from servicebus_emulator.servicebus.access.connection_rights import MAX_AUDIENCE_CHARACTERS, MAX_AUDIENCES
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import UNAUTHORIZED, ServiceBusError
from tests.unit.emulator.servicebus.client import Client, Namespace
from tests.unit.emulator.servicebus.credentials import (
    EVERY,
    HOST,
    NOW,
    authorizer,
    signed,
)
from tests.unit.emulator.servicebus.rig import section

# --- credentials -----------------------------------------------------------------------------------------------------


class Hour:
    """Seconds since the epoch. The test sets it."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


async def test_a_token_gives_rights_over_its_audience_only() -> None:
    rights = ConnectionRights(authorizer(), lambda: None)
    assert not rights.allows("q", Right.SEND)
    rights.put_token(f"{HOST}/Q", signed(HOST))
    assert rights.is_authenticated
    assert rights.allows("q", Right.SEND)
    assert rights.allows("q/$deadletterqueue", Right.SEND | Right.LISTEN)
    assert not rights.allows("q", Right.LISTEN)
    assert not rights.allows("other", Right.SEND)
    rights.close()


async def test_a_token_cannot_be_put_for_an_audience_outside_its_resource() -> None:
    rights = ConnectionRights(authorizer(), lambda: None)
    with pytest.raises(ServiceBusError, match=r"InvalidAudience: the token is for 'q' .*, not for '/'"):
        rights.put_token(HOST, signed(f"{HOST}/q"))
    assert not rights.is_authenticated


async def test_an_invalid_token_does_not_replace_a_valid_one() -> None:
    rights = ConnectionRights(authorizer(), lambda: None)
    rights.put_token(f"{HOST}/q", signed(f"{HOST}/q"))
    with pytest.raises(ServiceBusError, match="InvalidSignature"):
        rights.put_token(f"{HOST}/q", signed(f"{HOST}/q", key="wrong"))
    assert rights.allows("q", Right.SEND)
    rights.close()


async def test_an_expired_token_gives_no_rights_and_is_reported_unless_it_was_replaced() -> None:
    hour, lapsed = Hour(), asyncio.Event()
    rights = ConnectionRights(Authorizer(EVERY, clock=hour), lapsed.set)
    rights.put_token(f"{HOST}/q", signed(f"{HOST}/q", expiry=NOW + 1))
    rights.put_token(f"{HOST}/q", signed(f"{HOST}/q", expiry=NOW + 2))
    hour.now += 1.95
    assert rights.allows("q", Right.SEND)
    rights.put_token(f"{HOST}/other", signed(f"{HOST}/other"))  # makes it set its expiry timer again
    hour.now += 0.05
    assert not rights.allows("q", Right.SEND)
    async with asyncio.timeout(5):
        await lapsed.wait()
    assert rights.allows("other", Right.SEND)
    rights.close()


async def test_the_number_of_audiences_of_a_connection_is_limited() -> None:
    rights, token = ConnectionRights(authorizer(), lambda: None), signed(HOST)
    for number in range(MAX_AUDIENCES):
        rights.put_token(f"{HOST}/{number}", token)
    with pytest.raises(ServiceBusError, match="the most that a connection may have"):
        rights.put_token(f"{HOST}/more", token)
    rights.put_token(f"{HOST}/0", token)
    rights.close()


def test_the_length_of_an_audience_is_limited() -> None:
    audience = f"{HOST}/{'q' * MAX_AUDIENCE_CHARACTERS}"
    with pytest.raises(ServiceBusError, match="The audience is longer than 2048 characters"):
        ConnectionRights(authorizer(), lambda: None).put_token(audience, signed(HOST))


def test_a_login_with_a_policys_name_and_key_replaces_tokens() -> None:
    rights = ConnectionRights(authorizer(), lambda: None)
    assert not rights.log_in("listeners", "first-key")
    assert not rights.log_in("", "")
    assert rights.log_in("Listeners", "q-key")
    assert rights.is_authenticated
    assert rights.allows("q/$management", Right.LISTEN)
    assert not rights.allows("q", Right.SEND)
    assert not rights.allows("other", Right.LISTEN)


def test_in_open_mode_no_token_is_needed() -> None:
    rights = ConnectionRights(UNCHECKED, lambda: None)
    assert rights.is_authenticated
    assert rights.log_in("anybody", "anything")
    assert rights.allows("q", Right.MANAGE)


# --- links and requests ----------------------------------------------------------------------------------------------


def logged_in(name: str, key: str) -> Client:
    """A client of `q` with the rights of its policy."""
    one = Namespace(QueueSettings("q")).client()
    one.endpoint.rights = ConnectionRights(authorizer(), lambda: None)
    assert one.endpoint.rights.log_in(name, key)
    return one


@pytest.mark.parametrize(
    ("name", "key", "needed"), [("senders", "first-key", "Listen"), ("listeners", "q-key", "Send")]
)
def test_a_link_needs_the_right_for_its_direction(name: str, key: str, needed: str) -> None:
    one = logged_in(name, key)
    attach = one.receive if needed == "Listen" else lambda queue: one.send_to(Target(queue))
    attach("q")
    error = one.refused()
    assert error.condition == UNAUTHORIZED
    assert f"'{needed}' claim(s) are required" in str(error.description)


@pytest.mark.parametrize(
    ("operation", "needed"),
    [
        ("schedule-message", Right.SEND),
        ("cancel-scheduled-message", Right.SEND),
        ("peek-message", Right.LISTEN),
        ("update-disposition", Right.LISTEN),
        ("set-session-state", Right.LISTEN),
        ("batch-delete-messages", Right.LISTEN),
    ],
)
def test_each_management_request_needs_the_right_for_its_operation(operation: str, needed: Right) -> None:
    for allowed, name, key in ((Right.SEND, "senders", "first-key"), (Right.LISTEN, "listeners", "q-key")):
        one = logged_in(name, key)
        one.send_to(Target("q/$management"))
        one.receive("q/$management", 1, credit=10)
        asked = {"operation": f"com.microsoft:{operation}"}
        one.transfer(0, 0, section(APPLICATION_PROPERTIES, asked) + section(AMQP_VALUE, {}))
        (answer,) = one.deliveries()
        status = answer.section(APPLICATION_PROPERTIES)["statusCode"]  # type: ignore[index]  # a map
        assert (status == 401) is (allowed is not needed)
