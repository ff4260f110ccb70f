"""Refusals of the emulator, and the exceptions that azure-servicebus raises for them: the blocking clients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from azure.core.credentials import AccessToken, AzureSasCredential
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusSender, ServiceBusSubQueue
from azure.servicebus.exceptions import (
    MessageNotFoundError,
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    ServiceBusAuthenticationError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
    SessionLockLostError,
)

from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.faults import FaultPoint
from tests.support.emulator import HOST, Bus, emulator_in_thread

QUEUES = (QueueSettings("plain"), QueueSettings("sessions", requires_session=True, lock_seconds=1))


@pytest.fixture(scope="module")
def bus() -> Iterator[Bus]:
    with emulator_in_thread(*QUEUES) as running:
        yield running


@pytest.fixture(scope="module")
def client(bus: Bus) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


@pytest.fixture(scope="module")
def sender(client: ServiceBusClient) -> Iterator[ServiceBusSender]:
    with client.get_queue_sender("plain") as one:
        yield one


class Bearer:
    """A credential with this token, valid or not."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        return AccessToken(self._token, int(time.time()) + 3600)


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("amqp:resource-limit-exceeded", ServiceBusQuotaExceededError),
        ("com.microsoft:server-busy", ServiceBusServerBusyError),
        ("com.microsoft:entity-disabled", MessagingEntityDisabledError),
        ("amqp:internal-error", ServiceBusError),
    ],
)
def test_a_send_refused_on_demand_raises_its_own_error(
    bus: Bus, sender: ServiceBusSender, condition: str, kind: type[ServiceBusError]
) -> None:
    bus.broker.faults.refuse(FaultPoint.SEND, condition, queue="plain")
    try:
        with pytest.raises(kind):
            sender.send_messages(ServiceBusMessage("x"))
    finally:
        bus.broker.faults.refusals.clear()
    assert bus.broker.counts()["plain"]["active"] == 0


def test_a_message_that_is_too_large_is_rejected_also_in_a_batch_and_when_scheduled(
    bus: Bus, sender: ServiceBusSender
) -> None:
    large = "x" * 200_000
    with pytest.raises(MessageSizeExceededError):
        sender.send_messages([ServiceBusMessage(large), ServiceBusMessage(large)])
    with pytest.raises(MessageSizeExceededError):
        sender.schedule_messages(ServiceBusMessage(large * 2), datetime.now(UTC) + timedelta(days=1))
    assert bus.broker.counts()["plain"] == {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 0}


def test_unknown_sequence_numbers_are_not_found(client: ServiceBusClient, sender: ServiceBusSender) -> None:
    with pytest.raises(MessageNotFoundError):
        sender.cancel_scheduled_messages([4711])
    with client.get_queue_receiver("plain") as receiver, pytest.raises(MessageNotFoundError):
        receiver.receive_deferred_messages([4711])


def test_nothing_can_be_sent_to_a_dead_letter_queue(client: ServiceBusClient) -> None:
    with (
        pytest.raises(ServiceBusError, match="cannot be sent to a dead-letter queue"),
        client.get_queue_sender("plain/$DeadLetterQueue"),
    ):
        pass


def test_a_dead_letter_queue_has_no_sessions(client: ServiceBusClient) -> None:
    with client.get_queue_receiver("sessions", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        assert receiver.peek_messages(5) == []


def test_a_session_id_must_be_a_string(client: ServiceBusClient) -> None:
    with (
        pytest.raises(ServiceBusError, match="must be a string"),
        client.get_queue_receiver("sessions", session_id=1),  # type: ignore[arg-type]  # the test passes a wrong type on purpose
    ):
        pass


def test_the_state_of_an_expired_session_cannot_be_read(client: ServiceBusClient) -> None:
    with client.get_queue_receiver("sessions", session_id="brief") as receiver:
        assert receiver.session.get_state() is None
        time.sleep(1.1)  # longer than the lock duration
        with pytest.raises(SessionLockLostError):
            receiver.session.get_state()


def test_a_bearer_token_is_accepted_and_nonsense_is_not(bus: Bus) -> None:
    def peek(credential: Bearer | AzureSasCredential) -> int:
        address = f"{HOST}:{bus.port}"
        with (
            ServiceBusClient(address, credential, use_tls=False, retry_total=0) as client,
            client.get_queue_receiver("plain") as receiver,
        ):
            return len(receiver.peek_messages(1))

    assert peek(Bearer("head.body.signature")) == 0
    assert peek(AzureSasCredential("SharedAccessSignature sr=a&sig=b&se=9999999999&skn=c")) == 0
    for nonsense in (Bearer("nonsense"), AzureSasCredential("SharedAccessSignature sr=a&sig=&se=9999999999&skn=c")):
        with pytest.raises(ServiceBusAuthenticationError):
            peek(nonsense)
