"""The REST data plane: messages sent and received over HTTP, with an SDK at the other end."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage

from servicebus_emulator import config
from servicebus_emulator.admin.data_plane import BATCH_TYPE
from servicebus_emulator.admin.server import running_admin
from servicebus_emulator.amqp import Symbol, Timestamp
from servicebus_emulator.amqp.sections import APPLICATION_PROPERTIES, DATA, MESSAGE_ANNOTATIONS, PROPERTIES
from servicebus_emulator.host import Endpoints, running_emulator
from servicebus_emulator.servicebus.access import Authorizer, Right
from servicebus_emulator.servicebus.access.policies import Policy
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message_encoding import encode_section, parse_message
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings, QueueStatus
from servicebus_emulator.servicebus.errors import SERVER_BUSY
from servicebus_emulator.servicebus.faults import FaultPoint
from servicebus_emulator.servicebus.storage.sqlite import SqliteMessageStorage
from tests.support.emulator import Bus, emulator
from tests.support.receiving import receive

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUES = (
    QueueSettings("plain", max_delivery_count=3),
    QueueSettings("short", lock_seconds=5),
    QueueSettings("sessions", requires_session=True),
    QueueSettings("forwarding", forward_to="target"),
    QueueSettings("target"),
    QueueSettings("closed", status=QueueStatus.DISABLED),
    QueueSettings("small", max_message_bytes=1024),
    QueueSettings("a/b c"),
)
TOKEN = {"Authorization": "SharedAccessSignature sr=sb%3A%2F%2Flocalhost&sig=abc&se=4102444800&skn=Root"}

JsonObject = dict[str, Any]  # any JSON in a header


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[Bus]:
    async with emulator(*QUEUES) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(bus: Bus) -> AsyncIterator[str]:
    async with running_admin(bus.broker, "127.0.0.1", 0) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sdk(bus: Bus) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def http(url: str, bus: Bus) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers=TOKEN, timeout=60) as one:
        yield one
    for settings in QUEUES[:2]:  # also removes messages that earlier tests left locked
        bus.broker.delete(settings.name)
        bus.broker.create(settings)


async def received(sdk: ServiceBusClient, queue: str, **options: Any) -> ServiceBusReceivedMessage:
    async with sdk.get_queue_receiver(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE, **options) as one:
        (message,) = await one.receive_messages(1, max_wait_time=5)
        return message


def signed(resource: str, policy: str, key: str) -> str:
    """Return a shared access signature, see Microsoft Learn, "Generate a SAS token"."""
    encoded, expires = quote_plus(resource), int(time.time()) + 60
    signature = hmac.digest(key.encode(), f"{encoded}\n{expires}".encode(), "sha256")
    fields = f"sr={encoded}&sig={quote_plus(base64.b64encode(signature))}&se={expires}&skn={policy}"
    return f"SharedAccessSignature {fields}"


async def until(true: Callable[[], bool]) -> None:
    """Wait until the condition holds; the timeout of the test bounds the wait."""
    while not true():  # noqa: ASYNC110 - the broker has no event for it
        await asyncio.sleep(0.005)


def broker_properties(answer: httpx.Response) -> JsonObject:
    found: JsonObject = json.loads(answer.headers["BrokerProperties"])
    return found


async def test_a_posted_message_arrives_with_all_its_properties(http: httpx.AsyncClient, sdk: ServiceBusClient) -> None:
    properties = {
        "MessageId": "m-1",
        "CorrelationId": "c-1",
        "SessionId": "s-1",
        "PartitionKey": "s-1",
        "ReplyTo": "answers",
        "ReplyToSessionId": "s-2",
        "To": "somebody",
        "Label": "order",
        "TimeToLive": 90,
        "NoSuchProperty": [1],
    }
    headers = {"BrokerProperties": json.dumps(properties), "Content-Type": "application/json; charset=utf-8"}
    answer = await http.post("/sessions/messages", content=b'{"a": 1}', headers=headers)
    assert (answer.status_code, answer.content) == (201, b"")

    message = await received(sdk, "sessions", session_id="s-1")

    assert b"".join(message.body) == b'{"a": 1}'
    assert (message.message_id, message.correlation_id, message.session_id) == ("m-1", "c-1", "s-1")
    assert (message.partition_key, message.reply_to, message.reply_to_session_id) == ("s-1", "answers", "s-2")
    assert (message.to, message.subject, message.content_type) == (
        "somebody",
        "order",
        "application/json; charset=utf-8",
    )
    assert message.time_to_live == timedelta(seconds=90)


async def test_headers_become_application_properties_of_the_inferred_type(
    http: httpx.AsyncClient, sdk: ServiceBusClient
) -> None:
    headers = {
        "Priority": '"High"',
        "Quoted": r'"say \"hi\" in C:\\dir"',
        "Number": "-42",
        "Big": str(2**62),
        "Price": "299.98",
        "Yes": "true",
        "OrderTime": '"Fri, 04 Mar 2011 08:49:37 GMT"',
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-ms-retrypolicy": "NoRetry",
        "Umlaut": '"Grüße"'.encode(),
    }
    await http.post("/plain/messages", content=b"x", headers=headers)  # type: ignore[arg-type]  # httpx takes bytes too

    message = await received(sdk, "plain")

    assert message.application_properties == {
        b"Priority": b"High",
        b"Quoted": rb'say "hi" in C:\dir',
        b"Number": -42,
        b"Big": 2**62,
        b"Price": 299.98,
        b"Yes": True,
        b"OrderTime": int(datetime(2011, 3, 4, 8, 49, 37, tzinfo=UTC).timestamp() * 1000),
        b"Umlaut": "Grüße".encode(),
    }


async def test_a_text_without_quotation_marks_is_refused_with_the_header_name(http: httpx.AsyncClient) -> None:
    answer = await http.post("/plain/messages", content=b"x", headers={"Hello": "world"})
    assert answer.status_code == 400
    assert "Hello" in answer.text
    assert "quotation marks" in answer.text


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ("no json", "BrokerProperties is invalid"),
        ('{"MessageId": 7}', "MessageId"),
        ('{"TimeToLive": "90"}', "TimeToLive"),
        ('{"TimeToLive": -1}', "TimeToLive"),
        ('{"TimeToLiveTimeSpan": "soon"}', "TimeToLiveTimeSpan"),
        ('{"ScheduledEnqueueTimeUtc": "tomorrow"}', "ScheduledEnqueueTimeUtc"),
        ('{"SessionId": "a", "PartitionKey": "b"}', "partition key"),
        (json.dumps({"MessageId": "x" * 129}), "message ID"),
    ],
)
async def test_invalid_broker_properties_are_refused_by_name(
    http: httpx.AsyncClient, properties: str, named: str
) -> None:
    answer = await http.post("/plain/messages", content=b"x", headers={"BrokerProperties": properties})
    assert answer.status_code == 400
    assert named in answer.text


@pytest.mark.parametrize("form", ["Sun, 06 Nov 2094 08:49:37 GMT", "2094-11-06T08:49:37Z", "2094-11-06T08:49:37"])
async def test_a_scheduled_message_waits_for_its_time(http: httpx.AsyncClient, bus: Bus, form: str) -> None:
    properties = json.dumps({"ScheduledEnqueueTimeUtc": form})
    await http.post("/plain/messages", content=b"x", headers={"BrokerProperties": properties})
    (waiting,) = bus.broker.find("plain").peek(0, 10, None)
    assert waiting.scheduled_at == datetime(2094, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()
    assert bus.broker.find("plain").counts()["scheduled"] == 1


async def test_a_batch_is_received_as_separate_messages(http: httpx.AsyncClient, sdk: ServiceBusClient) -> None:
    batch = [
        {"Body": "one", "BrokerProperties": {"Label": "M1", "TimeToLiveTimeSpan": "0.00:00:40"}},
        {"Body": "two", "UserProperties": {"Priority": "Low", "Weight": 2.5, "Size": 3, "Urgent": False}},
        {"Body": "three €"},
    ]
    answer = await http.post("/plain/messages", content=json.dumps(batch), headers={"Content-Type": BATCH_TYPE})
    assert answer.status_code == 201

    async with sdk.get_queue_receiver("plain") as receiver:
        one, two, three = await receive(receiver, 3)
    assert (str(one), one.subject, one.time_to_live) == ("one", "M1", timedelta(seconds=40))
    assert two.application_properties == {b"Priority": b"Low", b"Weight": 2.5, b"Size": 3, b"Urgent": False}
    assert str(three) == "three €"
    assert len({one.message_id, two.message_id, three.message_id}) == 3


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("[]", "1 to 4500"),
        ('{"Body": "x"}', "valid array"),
        ('[{"Body": "x"}, {"Body": 7}]', "[1].Body"),
        ('[{"Body": "x", "UserProperties": {"a": [1]}}]', "UserProperties.a"),
    ],
)
async def test_an_invalid_batch_is_refused_as_a_whole(http: httpx.AsyncClient, bus: Bus, body: str, named: str) -> None:
    answer = await http.post("/plain/messages", content=body, headers={"Content-Type": BATCH_TYPE})
    assert answer.status_code == 400
    assert named in answer.text
    assert bus.broker.find("plain").message_count() == 0


async def test_a_message_is_locked_then_completed(http: httpx.AsyncClient, sdk: ServiceBusClient, bus: Bus) -> None:
    sent = ServiceBusMessage(
        b"body",
        application_properties={"Priority": 'Hi"gh', "n": 3, "f": 1.5, "yes": True, "not a header": "x", "Host": "x"},
        message_id="m-1",
        content_type="text/plain",
        subject="label",
        time_to_live=timedelta(seconds=100),
        correlation_id="c",
    )
    async with sdk.get_queue_sender("plain") as sender:
        await sender.send_messages(sent)

    answer = await http.post("/plain/messages/head?timeout=5")

    assert (answer.status_code, answer.content) == (201, b"body")
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers["Priority"] == r'"Hi\"gh"'
    assert (answer.headers["n"], answer.headers["f"], answer.headers["yes"]) == ("3", "1.5", "true")
    assert "Host" not in answer.headers
    locked = broker_properties(answer)
    assert (locked["MessageId"], locked["Label"], locked["CorrelationId"]) == ("m-1", "label", "c")
    assert (locked["DeliveryCount"], locked["State"], locked["TimeToLive"]) == (1, "Active", 100)
    assert answer.headers["Location"].endswith(f"/plain/messages/{locked['SequenceNumber']}/{locked['LockToken']}")
    assert (await http.post("/plain/messages/head?timeout=0")).status_code == 204

    assert (await http.delete(answer.headers["Location"])).status_code == 200
    assert bus.broker.find("plain").message_count() == 0
    assert (await http.delete(answer.headers["Location"])).status_code == 404


async def test_an_unlocked_message_is_delivered_again_with_a_higher_delivery_count(http: httpx.AsyncClient) -> None:
    await http.post("/plain/messages", content=b"x", headers={"BrokerProperties": '{"MessageId": "m 1/2"}'})
    first = await http.post("/plain/messages/head")
    by_id = f"/plain/messages/m%201%2F2/{broker_properties(first)['LockToken']}"
    assert (await http.put(by_id)).status_code == 200

    second = await http.post("/plain/messages/head")
    assert broker_properties(second)["DeliveryCount"] == 2
    assert broker_properties(second)["LockToken"] != broker_properties(first)["LockToken"]
    assert (await http.delete(by_id)).status_code == 404


async def test_a_lock_is_renewed_until_it_is_lost(http: httpx.AsyncClient, bus: Bus) -> None:
    await http.post("/short/messages", content=b"x")
    where = (await http.post("/short/messages/head")).headers["Location"]
    queue = bus.broker.find("short")
    (held,) = queue.locked_messages()
    before = held.locked_until
    assert (await http.post(where)).status_code == 200
    assert held.locked_until > before

    queue.expire_locks()
    assert (await http.post(where)).status_code == 404


async def test_a_lock_token_belongs_to_one_message(http: httpx.AsyncClient) -> None:
    await http.post("/plain/messages", content=b"x")
    token = broker_properties(await http.post("/plain/messages/head"))["LockToken"]
    for path in (f"999/{token}", "1/no-token", f"1/{uuid.uuid4()}"):
        assert (await http.delete(f"/plain/messages/{path}")).status_code == 404


async def test_receive_and_delete_removes_the_message(http: httpx.AsyncClient, bus: Bus) -> None:
    await http.post("/plain/messages", content=b"x", headers={"Content-Type": "a/b"})
    answer = await http.delete("/plain/messages/head")
    assert (answer.status_code, answer.content, answer.headers["Content-Type"]) == (200, b"x", "a/b")
    assert "Location" not in answer.headers
    assert "LockToken" not in broker_properties(answer)
    assert bus.broker.find("plain").message_count() == 0


@pytest.mark.parametrize(
    ("body", "shown"), [("text", b"text"), ({"a": [1, "ü"]}, '{"a": [1, "ü"]}'.encode()), (b"\x00\xff", b"\x00\xff")]
)
async def test_a_body_that_is_not_binary_is_returned_as_text(
    http: httpx.AsyncClient, sdk: ServiceBusClient, body: object, shown: bytes
) -> None:
    is_data = isinstance(body, bytes)
    sent = AmqpAnnotatedMessage(data_body=body) if is_data else AmqpAnnotatedMessage(value_body=body)
    async with sdk.get_queue_sender("plain") as sender:
        await sender.send_messages(sent)
    assert (await http.delete("/plain/messages/head")).content == shown


async def test_a_message_with_properties_that_http_cannot_carry_is_received(http: httpx.AsyncClient, bus: Bus) -> None:
    odd = {"nan": float("nan"), "late": Timestamp(2**62), "list": b"x", "line": "a\r\nb: c"}
    properties: list[object] = [7, None, None, "ü", *[None] * 2, Symbol("te\nxt"), None, None, None]
    payload = encode_section(MESSAGE_ANNOTATIONS, {Symbol("x-opt-scheduled-enqueue-time"): Timestamp(0)})
    payload += (
        encode_section(PROPERTIES, properties)
        + encode_section(APPLICATION_PROPERTIES, odd)
        + encode_section(DATA, b"x")
    )
    bus.broker.find("plain").send([parse_message(payload)])

    answer = await http.delete("/plain/messages/head")

    assert (answer.status_code, answer.content) == (200, b"x")
    assert answer.headers["late"] == '"Fri, 31 Dec 9999 23:59:59 GMT"'
    assert answer.headers["line"] == '"a  b: c"'
    assert "nan" not in answer.headers
    assert (broker_properties(answer)["Label"], broker_properties(answer)["MessageId"]) == ("ü", "7")


async def test_a_content_type_that_is_not_ascii_is_refused(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "text/plain; x=ü".encode()}
    answer = await http.post("/plain/messages", content=b"x", headers=headers)  # type: ignore[arg-type]  # httpx takes bytes too
    assert (answer.status_code, "Content-Type" in answer.text) == (400, True)


async def test_accepted_messages_survive_a_crash(tmp_path: Path) -> None:
    with closing(SqliteMessageStorage(tmp_path / "data")) as store:
        broker = Broker([QueueSettings("kept")], storage=store)
        async with running_admin(broker) as url, httpx.AsyncClient(base_url=url, headers=TOKEN) as http:
            await http.post("/kept/messages", content=b"one")
            await http.post("/kept/messages", content=b"two")
            await http.delete("/kept/messages/head")
            shutil.copytree(tmp_path / "data", tmp_path / "copy")  # the files as they are after a crash at this moment
        broker.close()

    with closing(SqliteMessageStorage(tmp_path / "copy")) as store:
        again = Broker((), storage=store)
        store.restore(again, ())
        (message,) = again.find("kept").peek(0, 10, None)
        again.close()
    assert message.body.endswith(b"two")


async def test_a_waiting_client_gets_a_message_that_arrives_meanwhile(http: httpx.AsyncClient, bus: Bus) -> None:
    waiting = asyncio.create_task(http.post("/plain/messages/head?timeout=5"))
    await until(bus.broker.find("plain").in_use)
    await http.post("/plain/messages", content=b"late")
    assert (await waiting).content == b"late"


async def test_a_client_that_disconnects_takes_no_message(http: httpx.AsyncClient, bus: Bus) -> None:
    waiting = asyncio.create_task(http.post("/plain/messages/head?timeout=5"))
    await until(bus.broker.find("plain").in_use)
    waiting.cancel()
    await until(lambda: not bus.broker.find("plain").in_use())
    await http.post("/plain/messages", content=b"x")
    assert (await http.delete("/plain/messages/head?timeout=1")).content == b"x"


async def test_a_waiting_client_gets_not_found_when_the_queue_is_deleted(http: httpx.AsyncClient, bus: Bus) -> None:
    bus.broker.create(QueueSettings("passing"))
    waiting = asyncio.create_task(http.post("/passing/messages/head?timeout=5"))
    await until(bus.broker.find("passing").in_use)
    bus.broker.delete("passing")
    assert (await waiting).status_code == 404


async def test_dead_letters_are_received_by_their_path(http: httpx.AsyncClient) -> None:
    await http.post("/plain/messages", content=b"bad")
    for _ in range(3):
        await http.put((await http.post("/plain/messages/head?timeout=1")).headers["Location"])

    dead = await http.post("/plain/$deadletterqueue/messages/head?timeout=1")

    assert (dead.status_code, dead.content) == (201, b"bad")
    assert dead.headers["DeadLetterReason"] == '"MaxDeliveryCountExceeded"'
    assert (await http.delete(dead.headers["Location"])).status_code == 200
    assert (await http.post("/plain/$DeadLetterQueue/messages", content=b"x")).status_code == 400


async def test_a_slash_in_a_queue_name_may_be_escaped_or_not(http: httpx.AsyncClient) -> None:
    for name in ("a/b%20c", "A%2Fb%20C"):
        assert (await http.post(f"/{name}/messages", content=b"x")).status_code == 201
        assert (await http.delete(f"/{name}/messages/head?timeout=1")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "named"),
    [
        ("POST", "/nowhere/messages", 404, "nowhere"),
        ("POST", "/nowhere/messages/head", 404, "nowhere"),
        ("POST", "/sessions/messages", 400, "session"),
        ("POST", "/sessions/messages/head", 400, "sessions"),
        ("POST", "/forwarding/messages/head", 400, "target"),
        ("POST", "/closed/messages", 400, "disabled"),
        ("DELETE", "/closed/messages/head", 400, "disabled"),
        ("POST", "/small/messages", 403, "1024"),
        ("POST", "/plain/messages/head?timeout=soon", 400, "timeout"),
    ],
)
async def test_an_invalid_request_is_refused(
    http: httpx.AsyncClient, method: str, path: str, status: int, named: str
) -> None:
    answer = await http.request(method, path, content=b"x" * 2000)
    assert answer.status_code == status
    assert named in answer.text


async def test_a_batch_that_is_too_large_is_refused(http: httpx.AsyncClient) -> None:
    body = json.dumps([{"Body": "x" * 600}, {"Body": "x" * 600}])
    answer = await http.post("/small/messages", content=body, headers={"Content-Type": BATCH_TYPE})
    assert answer.status_code == 403


async def test_a_full_queue_refuses_messages(http: httpx.AsyncClient, bus: Bus) -> None:
    bus.broker.create(QueueSettings("full", max_size_mb=1))
    statuses = [(await http.post("/full/messages", content=b"x" * 250_000)).status_code for _ in range(5)]
    assert statuses == [201, 201, 201, 201, 403]


async def test_every_request_without_a_token_is_refused(url: str, bus: Bus) -> None:
    async with httpx.AsyncClient(base_url=url) as anonymous:
        for method, path in (
            ("POST", "/plain/messages"),
            ("POST", "/plain/messages/head"),
            ("DELETE", "/plain/messages/head"),
            ("DELETE", f"/plain/messages/1/{uuid.uuid4()}"),
        ):
            assert (await anonymous.request(method, path, content=b"x")).status_code == 401
        bearer = {"Authorization": "Bearer a.b.c"}
        assert (await anonymous.post("/plain/messages", content=b"x", headers=bearer)).status_code == 201
    assert bus.broker.find("plain").message_count() == 1


async def test_a_throttled_request_gets_status_503(http: httpx.AsyncClient, bus: Bus) -> None:
    bus.broker.faults.refuse(FaultPoint.SEND, SERVER_BUSY, queue="plain", times=1)
    assert (await http.post("/plain/messages", content=b"x")).status_code == 503
    assert (await http.post("/plain/messages", content=b"x")).status_code == 201


# Programs sign the URL of the queue or the URL of its messages.
@pytest.mark.parametrize(("signs", "entity"), [("plain", "plain"), ("plain/messages", ""), ("", "plain")])
async def test_a_key_with_the_right_send_cannot_receive(bus: Bus, signs: str, entity: str) -> None:
    policies = (Policy("Sender", Right.SEND, ("SENDER_KEY",), entity),)
    async with (
        running_admin(bus.broker, "127.0.0.1", 0, authorizer=Authorizer(policies)) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as http,
    ):
        token = {"Authorization": signed(f"{url}/{signs}", "Sender", "SENDER_KEY")}
        sent = await http.post("/plain/messages", content=b"x", headers=token)
        assert sent.status_code == (201 if signs else 401)  # the key of a queue's policy is valid for that queue only
        assert (await http.post("/plain/messages/head?timeout=0", headers=token)).status_code == 401
        assert (await http.post("/target/messages", content=b"x", headers=token)).status_code == 401
        assert (await http.get("/plain", headers=token)).status_code == 401


async def test_tokens_of_the_tenant_are_accepted() -> None:
    endpoints = Endpoints(amqp_port=0, http_port=0, admin_port=0)
    async with running_emulator(config.load(None), endpoints) as running, httpx.AsyncClient() as http:
        ready = running.ready()
        queue = running.broker.entities()[0].settings.name
        query = {"api-version": "2019-08-01", "resource": "https://servicebus.azure.net"}
        secret = {"X-IDENTITY-HEADER": str(ready["identity_header"])}
        token = (await http.get(str(ready["identity_endpoint"]), params=query, headers=secret)).json()["access_token"]
        url = f"{ready['admin_url']}/{queue}/messages"

        sent = await http.post(url, content=b"x", headers={"Authorization": f"Bearer {token}"})
        forged = await http.post(url, content=b"x", headers={"Authorization": f"Bearer {token[:-4]}AAAA"})

        assert (sent.status_code, forged.status_code) == (201, 401)
        assert running.broker.find(queue).message_count() == 1
