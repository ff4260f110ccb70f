"""ServiceBusAdministrationClient, with only the scheme changed, works with the emulator as with Service Bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.core.pipeline.transport import AioHttpTransport, RequestsTransport
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.aio.management import ServiceBusAdministrationClient as AsyncClient
from azure.servicebus.management import ApiVersion, EntityStatus, ServiceBusAdministrationClient

from servicebus_emulator import config
from servicebus_emulator.admin.server import running_admin
from servicebus_emulator.host import CannotListen, Emulator, Endpoints, running_emulator
from servicebus_emulator.servicebus.access import Authorizer, Right
from servicebus_emulator.servicebus.access.policies import DEVELOPMENT_POLICY, Policy
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.transport.tls import CertificateFiles
from tests.support.emulator import Bus, emulator
from tests.support.receiving import receive

pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGEST = timedelta(days=10_675_199, hours=2, minutes=48, seconds=5, microseconds=477581)
TOKEN = {"Authorization": "SharedAccessSignature sr=sb%3A%2F%2Flocalhost&sig=abc&se=4102444800&skn=Root"}
CONNECT = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"


class PlainTransport(RequestsTransport):  # type: ignore[misc]  # the SDK's class is untyped
    """Sends plain HTTP: version 7.15 of the client always uses HTTPS."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


class PlainAioTransport(AioHttpTransport):  # type: ignore[misc]  # the SDK's class is untyped
    """Sends plain HTTP with asyncio."""

    async def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return await super().send(request, **kwargs)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[Bus]:
    async with emulator(QueueSettings("configured", lock_seconds=30)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(bus: Bus) -> AsyncIterator[str]:
    async with running_admin(bus.broker, "127.0.0.1", 0) as running:
        yield running


@pytest.fixture(scope="module")
def connection_string(url: str) -> str:
    host = url.removeprefix("http://")
    return f"Endpoint=sb://{host};SharedAccessKeyName=Root;SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"


@pytest_asyncio.fixture(loop_scope="module")
async def client(connection_string: str, bus: Bus) -> AsyncIterator[AsyncClient]:
    async with AsyncClient.from_connection_string(
        connection_string, transport=PlainAioTransport(), retry_total=0
    ) as one:
        yield one
    for queue in bus.broker.entities():
        if queue.settings.name != "configured":
            bus.broker.delete(queue.settings.name)


@pytest_asyncio.fixture(loop_scope="module")
async def http(url: str, client: AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers=TOKEN, timeout=60) as one:
        yield one


def entry(properties: str, kind: str = "QueueDescription") -> bytes:
    described = f'<{kind} xmlns="{CONNECT}">{properties}</{kind}>'
    return f'<entry xmlns="http://www.w3.org/2005/Atom"><content>{described}</content></entry>'.encode()


async def test_settings_without_effect_in_the_emulator_survive_a_restart(tmp_path: Path) -> None:
    endpoints = Endpoints("127.0.0.1", 0, 0, admin_port=0)
    given: dict[str, Any] = {"enable_batched_operations": False, "enable_partitioning": True, "enable_express": True}
    async with running_emulator(config.load(None), endpoints, data=tmp_path) as running, _admin(running) as one:
        await one.create_queue("flagged", **given)
    async with running_emulator(config.load(None), endpoints, data=tmp_path) as running, _admin(running) as one:
        queue = await one.get_queue("flagged")
        assert {name: getattr(queue, name) for name in given} == given
        queue.enable_partitioning = False
        with pytest.raises(HttpResponseError, match="EnablePartitioning: cannot be changed"):
            await one.update_queue(queue)


@asynccontextmanager
async def _admin(running: Emulator) -> AsyncIterator[AsyncClient]:
    host = str(running.admin_url).removeprefix("http://")
    text = f"Endpoint=sb://{host};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE"
    async with AsyncClient.from_connection_string(text, transport=PlainAioTransport(), retry_total=0) as one:
        yield one


async def test_a_queue_is_created_with_the_defaults_of_the_service(client: AsyncClient) -> None:
    made = await client.create_queue("plain")
    got = await client.get_queue("plain")

    for queue in (made, got):
        assert queue.name == "plain"
        assert (queue.lock_duration, queue.max_delivery_count) == (timedelta(minutes=1), 10)
        assert (queue.default_message_time_to_live, queue.auto_delete_on_idle) == (LARGEST, LARGEST)
        assert queue.duplicate_detection_history_time_window == timedelta(minutes=10)
        assert (queue.max_size_in_megabytes, queue.max_message_size_in_kilobytes) == (1024, 256)
        assert queue.status == EntityStatus.ACTIVE
        assert queue.enable_batched_operations is True
        assert not queue.requires_session
        assert not queue.requires_duplicate_detection
        assert not queue.dead_lettering_on_message_expiration
        assert (queue.forward_to, queue.forward_dead_lettered_messages_to, queue.user_metadata) == (None, None, None)
        assert not queue.authorization_rules


async def test_every_property_of_a_queue_is_stored(client: AsyncClient, bus: Bus) -> None:
    await client.create_queue("target")
    await client.create_queue(
        "rich/one",
        auto_delete_on_idle=timedelta(minutes=10),
        dead_lettering_on_message_expiration=True,
        default_message_time_to_live="PT11M2S",
        duplicate_detection_history_time_window=timedelta(minutes=12, milliseconds=500),
        enable_batched_operations=False,
        enable_express=True,
        enable_partitioning=True,
        lock_duration=timedelta(seconds=13),
        max_delivery_count=14,
        max_size_in_megabytes=3072,
        requires_duplicate_detection=True,
        forward_to="target",
        forward_dead_lettered_messages_to="target",
        user_metadata="a <note> & more",
        max_message_size_in_kilobytes=2048,
    )

    queue = await client.get_queue("rich/one")

    assert queue.auto_delete_on_idle == timedelta(minutes=10)
    assert queue.dead_lettering_on_message_expiration is True
    assert queue.default_message_time_to_live == timedelta(minutes=11, seconds=2)
    assert queue.duplicate_detection_history_time_window == timedelta(minutes=12, milliseconds=500)
    assert (queue.enable_batched_operations, queue.enable_express, queue.enable_partitioning) == (False, True, True)
    assert queue.lock_duration == timedelta(seconds=13)
    assert (queue.max_delivery_count, queue.max_size_in_megabytes) == (14, 3072)
    assert queue.requires_duplicate_detection is True
    assert queue.forward_to == f"sb://{client.fully_qualified_namespace}/target"
    assert queue.forward_dead_lettered_messages_to == f"sb://{client.fully_qualified_namespace}/target"
    assert queue.user_metadata == "a <note> & more"
    assert queue.max_message_size_in_kilobytes == 2048
    rules = bus.broker.find("rich/one").settings
    assert (rules.forward_to, rules.max_message_bytes, rules.lock_seconds) == ("target", 2048 * 1024, 13)


async def test_an_update_changes_a_queue_and_clears_removed_properties(client: AsyncClient) -> None:
    await client.create_queue("target")
    queue = await client.create_queue("changing", forward_to="target", requires_session=False, user_metadata="x")

    queue.forward_to = None
    queue.user_metadata = None
    queue.lock_duration = timedelta(seconds=30)
    queue.status = EntityStatus.SEND_DISABLED
    await client.update_queue(queue, max_delivery_count=3)

    got = await client.get_queue("changing")
    assert (got.forward_to, got.user_metadata) == (None, None)
    assert (got.lock_duration, got.max_delivery_count) == (timedelta(seconds=30), 3)
    assert got.status == EntityStatus.SEND_DISABLED


async def test_a_change_of_an_immutable_property_is_refused_by_name(client: AsyncClient) -> None:
    queue = await client.create_queue("fixed", requires_session=True)
    queue.requires_session = False
    with pytest.raises(HttpResponseError, match="RequiresSession") as refused:
        await client.update_queue(queue)
    assert refused.value.status_code == 400


async def test_creating_an_existing_queue_is_refused(client: AsyncClient) -> None:
    await client.create_queue("once")
    with pytest.raises(ResourceExistsError):
        await client.create_queue("ONCE")


async def test_a_missing_queue_is_not_found(client: AsyncClient) -> None:
    queue = await client.create_queue("gone")
    await client.delete_queue("gone")
    for missing in (
        lambda: client.get_queue("gone"),
        lambda: client.get_queue_runtime_properties("gone"),
        lambda: client.update_queue(queue),
        lambda: client.delete_queue("gone"),
        lambda: client.get_queue("configured/$deadletterqueue"),
    ):
        with pytest.raises(ResourceNotFoundError):
            await missing()


async def test_queues_are_listed_page_by_page(client: AsyncClient, bus: Bus) -> None:
    for number in range(5):
        bus.broker.create(QueueSettings(f"listed-{number}"))

    names = [queue.name async for queue in client.list_queues(start_index=1, max_page_size=2)]
    assert names == [f"listed-{number}" for number in range(5)]
    assert "configured" in [queue.name async for queue in client.list_queues()]
    runtime = [queue.total_message_count async for queue in client.list_queues_runtime_properties()]
    assert runtime == [0] * 6
    assert [topic async for topic in client.list_topics()] == []


async def test_invalid_paging_parameters_are_refused(client: AsyncClient) -> None:
    for options in ({"start_index": -1}, {"max_page_size": 0}):
        with pytest.raises(HttpResponseError) as refused:
            [queue async for queue in client.list_queues(**options)]
        assert refused.value.status_code == 400


async def test_runtime_properties_count_messages_by_state(client: AsyncClient, bus: Bus) -> None:
    await client.create_queue("busy")
    before = await client.get_queue_runtime_properties("busy")
    assert before.accessed_at_utc == datetime(1, 1, 1, tzinfo=UTC)
    async with (
        ServiceBusClient.from_connection_string(bus.connection_string) as sdk,
        sdk.get_queue_sender("busy") as sender,
        sdk.get_queue_receiver("busy") as receiver,
    ):
        await sender.send_messages([ServiceBusMessage(b"x") for _ in range(4)])
        await sender.schedule_messages(ServiceBusMessage(b"x"), datetime.now(UTC) + timedelta(hours=1))
        dead, deferred = await receive(receiver, 2)
        await receiver.dead_letter_message(dead)
        await receiver.defer_message(deferred)

    counted = await client.get_queue_runtime_properties("busy")

    assert counted.active_message_count == 2
    assert counted.dead_letter_message_count == 1
    assert counted.scheduled_message_count == 1
    assert (counted.transfer_message_count, counted.transfer_dead_letter_message_count) == (0, 0)
    assert counted.total_message_count == 5
    assert (counted.size_in_bytes or 0) >= 5
    assert counted.created_at_utc is not None
    assert counted.updated_at_utc is not None
    assert counted.accessed_at_utc is not None
    assert counted.created_at_utc < counted.accessed_at_utc


async def test_messages_that_cannot_be_forwarded_are_counted(client: AsyncClient, bus: Bus) -> None:
    await client.create_queue("target")
    await client.create_queue("source", forward_to="target")
    await client.delete_queue("target")
    async with (
        ServiceBusClient.from_connection_string(bus.connection_string) as sdk,
        sdk.get_queue_sender("source") as sender,
    ):
        await sender.send_messages(ServiceBusMessage(b"x"))

    counted = await client.get_queue_runtime_properties("source")
    assert (counted.transfer_dead_letter_message_count, counted.total_message_count) == (1, 1)


async def test_the_namespace_has_properties(client: AsyncClient) -> None:
    namespace = await client.get_namespace_properties()
    assert (namespace.name, namespace.messaging_sku, namespace.namespace_type) == (
        "sbemulatorns",
        "Standard",
        "Messaging",
    )
    assert namespace.created_at_utc is not None


async def test_the_synchronous_client_manages_queues(connection_string: str, client: AsyncClient) -> None:
    def walk() -> list[object]:
        with ServiceBusAdministrationClient.from_connection_string(
            connection_string, transport=PlainTransport(), retry_total=0
        ) as sync:
            queue = sync.create_queue("walked", requires_session=True)
            queue.max_delivery_count = 7
            sync.update_queue(queue)
            seen: list[object] = [
                sync.get_queue("walked").max_delivery_count,
                "walked" in [one.name for one in sync.list_queues()],
            ]
            sync.delete_queue("walked")
            with pytest.raises(ResourceNotFoundError):
                sync.get_queue("walked")
            return seen

    assert await asyncio.to_thread(walk) == [7, True]


async def test_an_old_api_version_has_no_maximum_message_size(connection_string: str) -> None:
    async with AsyncClient.from_connection_string(
        connection_string, transport=PlainAioTransport(), api_version=ApiVersion.V2017_04
    ) as old:
        assert (await old.get_queue("configured")).max_message_size_in_kilobytes is None
        with pytest.raises(HttpResponseError, match="MaxMessageSizeInKilobytes: there is no such property") as error:
            await old.create_queue("large", max_message_size_in_kilobytes=1024)
        assert error.value.status_code == 400


async def test_topics_subscriptions_and_rules_are_refused_by_name(client: AsyncClient) -> None:
    for kind, refused in (
        ("TopicDescription", lambda: client.create_topic("topic")),
        ("subscriptions", lambda: client.create_subscription("topic", "all")),
        ("subscriptions", lambda: client.get_rule("topic", "all", "$Default")),
    ):
        with pytest.raises(HttpResponseError, match=kind) as error:
            await refused()
        assert error.value.status_code == 501


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ("<LockDuration>PT10M</LockDuration>", "LockDuration: 'PT10M' must be at most PT5M"),
        ("<LockDuration>soon</LockDuration>", "LockDuration: 'soon' must be an ISO 8601 duration"),
        ("<MaxDeliveryCount>0</MaxDeliveryCount>", "MaxDeliveryCount: '0' must be a whole number from 1 to 2000"),
        ("<RequiresSession>maybe</RequiresSession>", "RequiresSession: 'maybe' must be true or false"),
        ("<Status>Asleep</Status>", "Status: 'Asleep' must be one of Active, Disabled"),
        ("<AutoDeleteOnIdle>PT1M</AutoDeleteOnIdle>", "AutoDeleteOnIdle: 'PT1M' must be at least PT5M"),
        ("<ForwardTo>nowhere</ForwardTo>", "'nowhere'"),
        ("<Colour>red</Colour>", "Colour: there is no such property; known: AuthorizationRules, AutoDeleteOnIdle"),
        ("<Status>Active</Status><Status>Active</Status>", "Status: is there twice"),
        (f"<UserMetadata>{'x' * 1025}</UserMetadata>", "UserMetadata: must be a text of at most 1024"),
    ],
)
async def test_an_invalid_property_is_refused_with_the_values_allowed(
    http: httpx.AsyncClient, properties: str, named: str
) -> None:
    answer = await http.put("/wrong", content=entry(properties))
    assert answer.status_code == 400
    assert named in answer.text.replace("&apos;", "'")
    assert "<Code>400</Code>" in answer.text


async def test_properties_may_have_any_order_and_read_only_ones_are_ignored(http: httpx.AsyncClient, bus: Bus) -> None:
    properties = "<MaxDeliveryCount>4</MaxDeliveryCount><SizeInBytes>77</SizeInBytes><LockDuration>PT9S</LockDuration>"
    assert (await http.put("/any-order", content=entry(properties))).status_code == 201
    rules = bus.broker.find("any-order").settings
    assert (rules.max_delivery_count, rules.lock_seconds) == (4, 9)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"<entry", "no XML"),
        (b"\xff\xfe<", "UTF-8"),
        (b"<feed/>", "must be an 'entry'"),
        (b'<entry xmlns="http://www.w3.org/2005/Atom"/>', "one 'content'"),
        (entry("", "RelayDescription"), "QueueDescription"),
        (b'<!DOCTYPE e [<!ENTITY a "b">]>' + entry("<UserMetadata>&a;</UserMetadata>"), "document type"),
    ],
)
async def test_a_body_without_a_description_is_refused(http: httpx.AsyncClient, body: bytes, named: str) -> None:
    answer = await http.put("/wrong", content=body)
    assert answer.status_code == 400
    assert named in answer.text


async def test_a_body_above_the_limit_is_refused(http: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 1024

    assert (await http.put("/wrong", content=chunks())).status_code == 403


@pytest.mark.parametrize("name", ["-x", "x-", "a//b", "a b", "a$b", "é"])
async def test_an_invalid_queue_name_is_refused(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.put(f"/{name}", content=entry(""))
    assert answer.status_code == 400
    assert "name" in answer.text


@pytest.mark.parametrize("header", [None, "Basic eDp5", "SharedAccessSignature sr=x"])
async def test_a_request_without_a_valid_token_is_refused(url: str, header: str | None) -> None:
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": header} if header else {}) as anonymous:
        for path in ("/configured", "/$Resources/queues", "/$namespaceinfo", "/no-such-queue"):
            answer = await anonymous.get(path)
            assert answer.status_code == 401
            assert "<Code>401</Code>" in answer.text
            assert "WWW-Authenticate" in answer.headers


async def test_the_client_raises_an_authentication_error_for_a_refused_token(connection_string: str, url: str) -> None:
    class Unsigned(PlainAioTransport):
        async def send(self, request: Any, **kwargs: Any) -> Any:
            del request.headers["Authorization"]
            return await super().send(request, **kwargs)

    async with AsyncClient.from_connection_string(connection_string, transport=Unsigned()) as client:
        with pytest.raises(ClientAuthenticationError):
            await client.get_queue("configured")


async def test_an_update_with_an_old_entity_tag_is_refused(http: httpx.AsyncClient) -> None:
    await http.put("/tagged", content=entry(""))
    before = (await http.get("/tagged")).headers["ETag"]
    changed = await http.put("/tagged", content=entry(""), headers={"If-Match": f'"other", {before}'})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != before

    for method in ("PUT", "DELETE"):
        stale = await http.request(method, "/tagged", content=entry(""), headers={"If-Match": before})
        assert stale.status_code == 412
    weak = await http.put("/tagged", content=entry(""), headers={"If-Match": f"W/{changed.headers['ETag']}"})
    assert weak.status_code == 412
    malformed = await http.put("/tagged", content=entry(""), headers={"If-Match": "12345"})
    assert malformed.status_code == 400
    assert (await http.delete("/tagged", headers={"If-Match": changed.headers["ETag"]})).status_code == 200


async def test_health_needs_no_token(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as anonymous:
        answer = await anonymous.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy", "message": "Service is healthy."})


async def test_an_unsupported_method_is_refused_with_the_methods_allowed(http: httpx.AsyncClient) -> None:
    for method, path, allowed in (
        ("PATCH", "/configured", "GET, PUT, DELETE"),
        ("POST", "/$namespaceinfo", "GET"),
        ("GET", "/configured/messages/head", "POST, DELETE"),
    ):
        answer = await http.request(method, path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


async def test_a_malformed_api_version_is_refused(http: httpx.AsyncClient) -> None:
    assert (await http.get("/configured?api-version=newest")).status_code == 400
    assert (await http.get("/configured?api-version=2021-05&enrich=True")).status_code == 200


@asynccontextmanager
async def admin_by(policy: str, key: str, bus: Bus) -> AsyncIterator[AsyncClient]:
    """Return a client with this key, on a server with two policies: one with all rights, one with the right Listen."""
    policies = (DEVELOPMENT_POLICY, Policy("Reader", Right.LISTEN, ("READER_KEY",)))
    async with running_admin(bus.broker, "127.0.0.1", 0, authorizer=Authorizer(policies)) as url:
        host = url.removeprefix("http://")
        given = f"Endpoint=sb://{host};SharedAccessKeyName={policy};SharedAccessKey={key}"
        async with AsyncClient.from_connection_string(given, transport=PlainAioTransport(), retry_total=0) as one:
            yield one


async def test_a_key_with_the_right_manage_is_accepted(bus: Bus) -> None:
    async with admin_by("RootManageSharedAccessKey", "SAS_KEY_VALUE", bus) as client:
        await client.create_queue("managed")
        await client.get_namespace_properties()
        assert "managed" in [queue.name async for queue in client.list_queues()]
        await client.delete_queue("managed")


@pytest.mark.parametrize(
    ("policy", "key"), [("RootManageSharedAccessKey", "WRONG"), ("Nobody", "SAS_KEY_VALUE"), ("Reader", "READER_KEY")]
)
async def test_a_key_without_the_right_manage_is_refused(bus: Bus, policy: str, key: str) -> None:
    async with admin_by(policy, key, bus) as client:
        for refused in (client.get_queue("configured"), client.create_queue("x"), client.get_namespace_properties()):
            with pytest.raises(ClientAuthenticationError) as error:
                await refused
            assert key not in str(error.value)


async def test_the_clients_connect_over_https_without_a_custom_transport(tmp_path: Path) -> None:
    endpoints = Endpoints(
        amqp_port=0, http_port=0, admin_port=0, admin_https_port=0, certificates=CertificateFiles(tmp_path)
    )
    async with running_emulator(config.load(None), endpoints) as running:
        ready = running.ready()
        host = str(ready["admin_https_url"]).removeprefix("https://")
        given = f"Endpoint=sb://{host};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE"
        async with AsyncClient.from_connection_string(given, connection_verify=ready["ca_certificate"]) as client:
            queue = await client.create_queue("secured", enable_express=True)
            assert queue.name == "secured"
        plain = str(ready["admin_url"]).removeprefix("http://")
        async with AsyncClient.from_connection_string(
            given.replace(host, plain), transport=PlainAioTransport()
        ) as client:
            assert (await client.get_queue("secured")).enable_express


async def test_a_port_in_use_is_named(url: str) -> None:
    taken = Endpoints(amqp_port=0, http_port=0, admin_port=int(url.rpartition(":")[2]))
    with pytest.raises(CannotListen, match="--admin-port"):
        async with running_emulator(config.load(None), taken):
            pass
