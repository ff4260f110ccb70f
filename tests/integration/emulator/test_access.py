"""Keys, tokens and rights with the unmodified azure-servicebus SDK over sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.credentials import AccessToken, AzureSasCredential
from azure.identity import ManagedIdentityCredential as BlockingIdentity
from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential
from azure.servicebus import ServiceBusClient as BlockingClient
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus._pyamqp.utils import generate_sas_token
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusAuthenticationError, ServiceBusAuthorizationError, ServiceBusError

from servicebus_emulator import config
from servicebus_emulator.amqp.framing import SASL_FRAME, SASL_HEADER, Frame, FrameDecoder, frame_header
from servicebus_emulator.amqp.performatives import (
    Close,
    Detach,
    SaslInit,
    SaslOutcome,
    Transfer,
    decode_sasl,
    encode_frame_body,
)
from servicebus_emulator.amqp.sections import AMQP_VALUE, APPLICATION_PROPERTIES
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from servicebus_emulator.servicebus.access import AccessMode, Authorizer
from servicebus_emulator.servicebus.configuration.fields import ConfigError
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.transport.amqp_server import AmqpServer
from servicebus_emulator.transport.connection_rules import ConnectionRules
from tests.support.amqp_client import Client, SocketWire, connect
from tests.unit.emulator.amqp.peer import framed
from tests.unit.emulator.servicebus.rig import message, section

HOST = "127.0.0.1"
SHORT = 0.4
Q, OTHER = "flow-requests", "dataverse-requests"
OWNER, SENDER = "Azure Service Bus Data Owner", "Azure Service Bus Data Sender"
ROOT = ("RootManageSharedAccessKey", "SAS_KEY_VALUE")


def policy(name: str, *rights: str) -> dict[str, object]:
    return {"KeyName": name, "Rights": list(rights), "PrimaryKey": f"{name}-key", "SecondaryKey": f"{name}-other"}


def configuration(**service_bus: object) -> config.Config:
    """Return the default configuration with two policies of the namespace and one of a queue."""
    document: dict[str, Any] = json.loads(config.DEFAULT.read_text(encoding="utf-8"))
    (namespace,) = document["UserConfig"]["Namespaces"]
    namespace["AuthorizationRules"] = [policy("sender", "Send"), policy("listener", "Listen")]
    (queue,) = (queue for queue in namespace["Queues"] if queue["Name"] == Q)
    queue["AuthorizationRules"] = [policy("queue", "Manage")]
    document["FlowWorker"]["ServiceBus"] = service_bus
    return config.parse(json.dumps(document))


@asynccontextmanager
async def serving(access: AccessMode | None = None, **service_bus: object) -> AsyncIterator[Emulator]:
    async with running_emulator(configuration(**service_bus), Endpoints(HOST, 0, 0), access=access) as running:
        yield running


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with serving() as running:
        yield running


def host(emulator: Emulator) -> str:
    return emulator.connection_string.partition(";")[0].removeprefix("Endpoint=sb://")


def client(emulator: Emulator, name: str, key: str | None = None) -> ServiceBusClient:
    """Return a connection string for a policy, with its primary key unless another is given."""
    text = (
        f"Endpoint=sb://{host(emulator)};SharedAccessKeyName={name};"
        f"SharedAccessKey={key or f'{name}-key'};UseDevelopmentEmulator=true"
    )
    return ServiceBusClient.from_connection_string(text, retry_total=0)


def of_identity(emulator: Emulator, credential: Any) -> ServiceBusClient:
    return ServiceBusClient(host(emulator), credential, use_tls=False, retry_total=0)


async def send(one: ServiceBusClient, queue: str = Q) -> None:
    async with one.get_queue_sender(queue) as sender:
        await sender.send_messages(ServiceBusMessage("x"))


async def receive(one: ServiceBusClient, queue: str = Q) -> int:
    """Receive and complete messages. Return their number."""
    async with one.get_queue_receiver(queue) as receiver:
        messages = await receiver.receive_messages(max_wait_time=1)
        for message in messages:
            await receiver.complete_message(message)
        return len(messages)


async def schedule_and_cancel(one: ServiceBusClient) -> None:
    async with one.get_queue_sender(Q) as sender:
        numbers = await sender.schedule_messages(ServiceBusMessage("x"), datetime.now(UTC) + timedelta(hours=1))
        await sender.cancel_scheduled_messages(numbers)


# --- policies ----------------------------------------------------------------------------------------------------


async def refused(attempt: Awaitable[object]) -> ServiceBusError:
    with pytest.raises(ServiceBusError) as caught:
        await attempt
    return caught.value


def reason_of(error: ServiceBusError) -> str:
    """Return the service's reason, which the SDK hides."""
    return f"{type(error).__name__}: {error.inner_exception or error}"


async def test_a_valid_key_allows_every_operation_on_a_queue(emulator: Emulator) -> None:
    async with client(emulator, "queue", "queue-other") as one, one.get_queue_receiver(Q) as receiver:
        await send(one)
        assert len(await receiver.peek_messages()) == 1
        (message,) = await receiver.receive_messages(max_wait_time=5)
        await receiver.renew_message_lock(message)
        await receiver.dead_letter_message(message)
        async with one.get_queue_receiver(Q, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as below:
            (dead,) = await below.receive_messages(max_wait_time=5)
            await below.complete_message(dead)


async def test_a_wrong_key_is_not_authenticated_and_the_error_has_the_reason(emulator: Emulator) -> None:
    async with client(emulator, ROOT[0], "listener-key") as one:
        reason = reason_of(await refused(send(one)))
    assert reason.startswith("ServiceBusAuthenticationError")
    assert "Status code: 401" in reason
    assert "InvalidSignature" in reason
    assert "listener-key" not in reason


async def test_the_blocking_client_reports_a_wrong_key_and_a_missing_right(emulator: Emulator) -> None:
    def attempt(name: str, key: str) -> None:
        text = emulator.connection_string.replace(ROOT[0], name).replace(ROOT[1], key)
        with BlockingClient.from_connection_string(text, retry_total=0) as one:
            one.get_queue_receiver(Q).receive_messages(max_wait_time=1)

    wrong, lacking = await asyncio.gather(
        refused(asyncio.to_thread(attempt, ROOT[0], "wrong")),
        refused(asyncio.to_thread(attempt, "sender", "sender-key")),
    )
    assert isinstance(wrong, ServiceBusAuthenticationError)
    assert isinstance(lacking, ServiceBusAuthorizationError)


async def test_a_client_with_the_right_to_send_cannot_receive(emulator: Emulator) -> None:
    async with client(emulator, "sender") as one:
        *refusals, _ = await asyncio.gather(
            refused(receive(one)), refused(one.get_queue_receiver(Q).peek_messages()), schedule_and_cancel(one)
        )
    for refusal in refusals:
        assert isinstance(refusal, ServiceBusAuthorizationError)
        assert "'Listen' claim(s) are required" in reason_of(refusal)


async def test_a_client_with_the_right_to_listen_cannot_send(emulator: Emulator) -> None:
    emulator.broker.find(Q).send([message("x")])
    async with client(emulator, "listener") as one:
        refusal, received = await asyncio.gather(refused(send(one)), receive(one))
    assert received == 1
    assert isinstance(refusal, ServiceBusAuthorizationError)
    assert "'Send' claim(s) are required" in reason_of(refusal)


async def test_a_queues_key_gives_no_right_over_another_queue(emulator: Emulator) -> None:
    async with client(emulator, "queue") as one:
        _, refusal = await asyncio.gather(send(one), refused(send(one, OTHER)))
    assert isinstance(refusal, ServiceBusAuthenticationError)
    assert f"there is no policy 'queue' for '{OTHER}'" in reason_of(refusal)


async def test_in_open_mode_every_key_is_accepted() -> None:
    async with serving(AccessMode.OPEN) as emulator, client(emulator, "nobody", "wrong") as one:
        await send(one)


async def test_the_command_line_overrides_the_access_mode_of_the_configuration() -> None:
    async with (
        serving(Access="open") as emulator,
        serving(AccessMode.CHECKED, Access="open") as strict,
        client(emulator, "nobody") as one,
        client(strict, "nobody") as other,
    ):
        _, refusal = await asyncio.gather(send(one), refused(send(other)))
    assert isinstance(refusal, ServiceBusAuthenticationError)


# --- identities --------------------------------------------------------------------------------------------------


@pytest.fixture
def at_identity_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Emulator], None]:
    """Points azure-identity to an emulator's identity endpoint."""

    def point(emulator: Emulator) -> None:
        for name, value in emulator.web.environment().items():
            monkeypatch.setenv(name, value)

    return point


def assignment(role: str, **more: object) -> dict[str, object]:
    return {"ObjectId": str(config.load().http.identity.managed_identity.object_id), "Role": role} | more


async def test_the_managed_identity_is_data_owner_unless_role_assignments_are_configured(
    emulator: Emulator, at_identity_of: Callable[[Emulator], None]
) -> None:
    at_identity_of(emulator)

    def attempt() -> None:
        with BlockingIdentity() as who, BlockingClient(host(emulator), who, use_tls=False, retry_total=0) as one:
            one.get_queue_sender(Q).send_messages(ServiceBusMessage("x"))

    async with (
        ManagedIdentityCredential() as managed,
        DefaultAzureCredential() as default,
        of_identity(emulator, managed) as one,
        of_identity(emulator, default) as other,
    ):
        await asyncio.gather(send(one), send(other), asyncio.to_thread(attempt))
        assert emulator.broker.counts()[Q]["active"] == 3
        assert await receive(one) == 1


async def test_a_data_role_gives_its_right_and_no_other(at_identity_of: Callable[[Emulator], None]) -> None:
    roles = [assignment(SENDER), assignment(OWNER, Queue=OTHER)]
    async with serving(RoleAssignments=roles) as emulator:
        at_identity_of(emulator)
        emulator.broker.find(OTHER).send([message("x")])
        async with ManagedIdentityCredential() as who, of_identity(emulator, who) as one:
            received, refusal, _ = await asyncio.gather(receive(one, OTHER), refused(receive(one)), send(one))
    assert received == 1
    assert isinstance(refusal, ServiceBusAuthorizationError)
    assert "'Listen' claim(s) are required" in reason_of(refusal)


async def test_an_identity_without_a_role_has_no_rights(at_identity_of: Callable[[Emulator], None]) -> None:
    async with serving(RoleAssignments=[]) as emulator:
        at_identity_of(emulator)
        async with ManagedIdentityCredential() as who, of_identity(emulator, who) as one:
            refusals = await asyncio.gather(refused(send(one)), refused(receive(one)))
    assert [type(refusal) for refusal in refusals] == [ServiceBusAuthorizationError] * 2


@pytest.mark.parametrize(
    ("service_bus", "path"),
    [
        ({"Access": "closed"}, "FlowWorker.ServiceBus.Access: .*'checked' or 'open'"),
        ({"RoleAssignments": [{"ObjectId": "x", "Role": OWNER}]}, r"ServiceBus.RoleAssignments\[0\].ObjectId: "),
        ({"RoleAssignments": [assignment("Owner")]}, r"RoleAssignments\[0\].Role: .*Azure Service Bus Data Sender"),
        ({"RoleAssignments": [assignment(OWNER, Que="q")]}, r"RoleAssignments\[0\].Que: no such field"),
    ],
)
def test_an_invalid_setting_is_rejected_with_its_path(service_bus: dict[str, object], path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        configuration(**service_bus)


# --- expiry ------------------------------------------------------------------------------------------------------


def signature(emulator: Emulator, seconds: float, *, queue: str = Q) -> str:
    """Return a signature that expires in this number of seconds, or one second earlier."""
    expiry = int(time.time() + seconds)
    return str(
        generate_sas_token(f"sb://{host(emulator)}/{queue}", *ROOT, expiry)  # type: ignore[no-untyped-call]
    )


async def test_an_expired_signature_is_not_authenticated(emulator: Emulator) -> None:
    credential = AzureSasCredential(signature(emulator, -60))
    async with of_identity(emulator, credential) as one:
        refusal = await refused(send(one))
    assert isinstance(refusal, ServiceBusAuthenticationError)
    assert "ExpiredToken" in reason_of(refusal)


@asynccontextmanager
async def peer(emulator: Emulator) -> AsyncIterator[Client]:
    """A client with links to `$cbs` under the handles 8 and 9."""
    one, stream = await connect(HOST, int(host(emulator).rpartition(":")[2]))
    try:
        await one.open()
        await one.attach("$cbs", 8)
        await one.attach("$cbs", 9, receives=False)
        await one.grant_credit(100, 8)
        yield one
    finally:
        await stream.close()


async def put_token(one: Client, number: int, token: str, queue: str = Q) -> None:
    properties = {"operation": "put-token", "name": f"sb://{HOST}/{queue}", "type": "jwt"}
    payload = section(APPLICATION_PROPERTIES, properties) + section(AMQP_VALUE, token)
    await one.wire.send(framed(Transfer(9, number, b"%d" % number, 0), payload=payload))
    await one.receive(Transfer)


async def test_an_expired_token_detaches_its_links_and_no_others(emulator: Emulator) -> None:
    async with peer(emulator) as one:
        await put_token(one, 0, signature(emulator, 2))
        await put_token(one, 1, signature(emulator, 60, queue=OTHER), OTHER)
        await one.attach(Q, 0)
        await one.attach(OTHER, 1)
        await one.attach(Q, 2, receives=False)
        await one.attach(f"{Q}/$management", 3)
        gone = [await one.receive(Detach) for _ in range(3)]
        # The broker numbers its own handles in the order of the attaches.
        assert sorted(detach.handle for detach in gone) == [2, 4, 5]
        assert {detach.error.condition for detach in gone if detach.error} == {"amqp:unauthorized-access"}
        await one.grant_credit(1, 1)
        emulator.broker.find(OTHER).send([message("x")])
        assert (await one.receive(Transfer)).handle == 3


async def test_a_token_replaced_in_time_keeps_its_links(emulator: Emulator) -> None:
    expiry = int(time.time()) + 2
    async with peer(emulator) as one:
        await put_token(one, 0, signature(emulator, 2))
        await one.attach(Q, 0)
        await one.grant_credit(1)
        await put_token(one, 1, signature(emulator, 60))
        await asyncio.sleep(expiry + 0.2 - time.time())
        emulator.broker.find(Q).send([message("x")])
        assert (await one.receive(Transfer)).handle == 2


class ShortTokens:
    """A credential whose tokens live for some seconds. Those of azure-identity are cached for half a minute."""

    def __init__(self, emulator: Emulator, seconds: int) -> None:
        self._emulator = emulator
        self._seconds = seconds
        self.given = 0

    async def get_token(self, *_: str, **__: object) -> AccessToken:
        self.given += 1
        token = self._emulator.web.tokens.for_managed_identity("https://servicebus.azure.net", self._seconds)
        return AccessToken(token, int(time.time()) + self._seconds)


async def test_the_sdk_renews_its_token_in_time_and_keeps_its_link(emulator: Emulator) -> None:
    # The SDK renews a token when a tenth of its life is left, in whole seconds: here two, enough on a busy machine.
    credential, began = ShortTokens(emulator, 21), time.time()
    async with of_identity(emulator, credential) as one, one.get_queue_receiver(Q) as receiver:
        waiting = asyncio.create_task(receiver.receive_messages(max_wait_time=40))
        await asyncio.sleep(1)
        link = receiver._handler._link
        await asyncio.sleep(began + 21.5 - time.time())
        emulator.broker.find(Q).send([message("x")])
        assert len(await waiting) == 1
        assert receiver._handler._link is link
    assert credential.given >= 2


# --- without tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [Q, f"{Q}/$management", "no-such-queue"])
async def test_without_a_token_every_link_is_refused_alike_and_reveals_no_entity(
    emulator: Emulator, address: str
) -> None:
    async with peer(emulator) as one:
        await one.attach(address)
        detach = await one.receive(Detach)
        assert detach.error is not None
        assert detach.error.condition == "amqp:unauthorized-access"


@asynccontextmanager
async def short_of_patience() -> AsyncIterator[int]:
    """The port of a server with the shortest grace period for a token."""
    rules = ConnectionRules(first_token_within_seconds=SHORT)
    server = AmqpServer(Broker([QueueSettings("q")]), rules=rules, authorizer=Authorizer())
    try:
        yield await server.start(HOST, 0)
    finally:
        await server.stop()


async def test_a_connection_without_a_token_is_closed_after_the_grace_period() -> None:
    async with short_of_patience() as port:
        one, stream = await connect(HOST, port)
        await one.open()
        error = (await one.receive(Close)).error
        assert error is not None
        assert error.condition == "amqp:unauthorized-access"
        with pytest.raises(EOFError):
            await one.receive(Close)
        await stream.close()


async def log_in(port: int, name: str, key: str) -> tuple[SaslOutcome, Client, SocketWire]:
    """Log in with SASL PLAIN. Return the outcome, and the client."""
    reader, writer = await asyncio.open_connection(HOST, port)
    body = encode_frame_body(SaslInit("PLAIN", f"\0{name}\0{key}".encode()))
    writer.write(SASL_HEADER + frame_header(len(body), 0, SASL_FRAME) + body)
    decoder = FrameDecoder(2**16)
    decoder.expect_header()
    while True:
        decoder.feed(await reader.read(1 << 16))
        while (item := decoder.next()) is not None:
            if isinstance(item, Frame) and isinstance(found := decode_sasl(item.body), SaslOutcome):
                stream = SocketWire(reader, writer)
                return found, Client(stream), stream


async def test_a_client_that_logs_in_with_a_policys_name_and_key_needs_no_token() -> None:
    async with short_of_patience() as port:
        outcome, one, stream = await log_in(port, *ROOT)
        assert outcome.code == 0
        await (await one.open()).attach("q")
        await asyncio.sleep(2 * SHORT)
        await one.attach("q", 1, receives=False)
        await stream.close()


async def test_a_login_with_a_wrong_key_fails() -> None:
    async with short_of_patience() as port:
        outcome, _, stream = await log_in(port, ROOT[0], "wrong")
        assert outcome.code == 1
        await stream.close()
