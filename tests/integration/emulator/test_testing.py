"""`servicebus_emulator.testing` as other projects use it, and the same faults over HTTP, with azure-servicebus."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.aio import ServiceBusClient as AsyncClient
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessagingEntityDisabledError,
    ServiceBusAuthenticationError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
    SessionLockLostError,
)

from servicebus_emulator.config import parse
from servicebus_emulator.host import Endpoints, running_emulator
from servicebus_emulator.servicebus.errors import ServiceBusError
from servicebus_emulator.testing import (
    EmulatedServiceBus,
    QueueSettings,
    running_service_bus,
    running_service_bus_in_thread,
)

STRANGERS_TEST = """
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusServerBusyError

@pytest.fixture
def service_bus_queues():
    return ["orders"]

def test_orders(service_bus):
    with ServiceBusClient.from_connection_string(service_bus.connection_string, retry_total=0) as client:
        with client.get_queue_sender("orders") as sender:
            service_bus.throttle(times=1)
            with pytest.raises(ServiceBusServerBusyError):
                sender.send_messages(ServiceBusMessage("x"))
            sender.send_messages(ServiceBusMessage("x"))
    assert service_bus.counts("Orders")["active"] == 1
"""


@pytest.fixture(scope="module")
def bus() -> Iterator[EmulatedServiceBus]:
    with running_service_bus_in_thread("plain", QueueSettings("sessions", requires_session=True)) as running:
        yield running


@pytest.fixture(autouse=True)
def without_faults(bus: EmulatedServiceBus) -> Iterator[None]:
    """Clear the faults of each test."""
    yield
    bus.clear_faults()


@pytest.fixture(scope="module")
def client(bus: EmulatedServiceBus) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


@pytest.fixture(scope="module")
def sender(client: ServiceBusClient) -> Iterator[ServiceBusSender]:
    with client.get_queue_sender("plain") as one:
        yield one


@pytest.fixture(scope="module")
def receiver(client: ServiceBusClient) -> Iterator[ServiceBusReceiver]:
    with client.get_queue_receiver("plain") as one:
        yield one


def received(receiver: ServiceBusReceiver) -> str:
    """Receive one message and complete it; return its text."""
    [got] = receiver.receive_messages(max_wait_time=5)
    receiver.complete_message(got)
    return str(got)


def test_another_project_gets_the_fixture_by_installing_the_package(tmp_path: Path) -> None:
    (tmp_path / "test_orders.py").write_text(STRANGERS_TEST, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "test_orders.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_an_operation_is_refused_as_often_as_requested_with_the_requested_condition(
    bus: EmulatedServiceBus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    bus.refuse("send", "amqp:resource-limit-exceeded", queue="PLAIN", times=1)
    with pytest.raises(ServiceBusQuotaExceededError):
        sender.send_messages(ServiceBusMessage("x"))
    sender.send_messages(ServiceBusMessage("x"))
    bus.reject_next_settlement()
    [got] = receiver.receive_messages(max_wait_time=5)
    with pytest.raises(MessageLockLostError):
        receiver.complete_message(got)
    bus.refuse("request", "com.microsoft:server-busy")
    with pytest.raises(ServiceBusServerBusyError):
        receiver.peek_messages()
    assert [(one.at, one.queue, one.times) for one in bus.refusals()] == [("request", None, None)]
    bus.clear_faults()
    assert len(receiver.peek_messages(sequence_number=1)) == 1
    bus.expire_locks("plain")
    assert received(receiver) == "x"


def test_a_link_and_a_token_are_refused_on_demand(bus: EmulatedServiceBus, client: ServiceBusClient) -> None:
    bus.refuse("attach", "com.microsoft:entity-disabled", queue="plain", times=1)
    with pytest.raises(MessagingEntityDisabledError), client.get_queue_receiver("plain"):
        pass
    bus.refuse("token", "amqp:unauthorized-access", times=1)
    with pytest.raises(ServiceBusAuthenticationError), client.get_queue_receiver("plain"):
        pass


def test_a_message_whose_lock_is_expired_on_demand_is_delivered_again(
    bus: EmulatedServiceBus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    sender.send_messages(ServiceBusMessage("x"))
    [got] = receiver.receive_messages(max_wait_time=5)
    assert bus.expire_locks("plain") == 1
    with pytest.raises(MessageLockLostError):
        receiver.complete_message(got)
    [again] = receiver.receive_messages(max_wait_time=5)
    assert again.delivery_count == 1
    receiver.complete_message(again)


def test_advancing_the_clock_delivers_scheduled_messages(
    bus: EmulatedServiceBus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    sender.schedule_messages(ServiceBusMessage("tomorrow"), datetime.now(UTC) + timedelta(days=1))
    assert bus.counts("plain") == {"active": 0, "deferred": 0, "scheduled": 1, "dead_lettered": 0}
    bus.advance(86_400)
    assert received(receiver) == "tomorrow"
    assert bus.now() > time.time() + 86_000


def test_delayed_requests_are_answered_later_and_in_order(
    bus: EmulatedServiceBus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    bus.delay(0.5)
    started = time.monotonic()
    sender.send_messages(ServiceBusMessage("a"))
    assert time.monotonic() - started >= 0.5
    sender.send_messages(ServiceBusMessage("b"))
    bus.delay(0)
    assert [received(receiver), received(receiver)] == ["a", "b"]


def test_a_detached_link_loses_its_session(bus: EmulatedServiceBus, client: ServiceBusClient) -> None:
    with client.get_queue_receiver("sessions", session_id="s") as held:
        bus.force_detach("sessions", "com.microsoft:session-lock-lost")
        with pytest.raises(SessionLockLostError):
            held.receive_messages(max_wait_time=2)


def test_queues_are_created_updated_and_deleted_at_run_time(bus: EmulatedServiceBus, client: ServiceBusClient) -> None:
    bus.create_queue("brief")
    bus.update_queue("brief", max_delivery_count=1)
    with client.get_queue_sender("brief") as one:
        one.send_messages(ServiceBusMessage("x"))
    assert bus.counts("BRIEF")["active"] == 1
    bus.delete_queue("brief")
    with pytest.raises(ServiceBusError, match="'brief' could not be found"):
        bus.counts("brief")


def test_an_invalid_call_raises_in_the_callers_thread(bus: EmulatedServiceBus) -> None:
    with pytest.raises(ValueError, match="'nowhere' is not a valid FaultPoint"):
        bus.refuse("nowhere", "amqp:not-allowed")
    with pytest.raises(ValueError, match="'busy' is no condition"):
        bus.refuse("send", "busy")
    with pytest.raises(ValueError, match="times is 0"):
        bus.refuse("send", "amqp:not-allowed", times=0)
    with pytest.raises(ValueError, match="it goes forward only"):
        bus.advance(-1)
    with pytest.raises(ServiceBusError, match="'nobody' could not be found"):
        bus.expire_locks("nobody")
    with pytest.raises(ServiceBusError, match="'plane' could not be found"):
        bus.throttle(queue="plane")


def test_a_port_in_use_raises_in_the_callers_thread(bus: EmulatedServiceBus) -> None:
    with pytest.raises(OSError, match="address"), running_service_bus_in_thread(port=bus.port):
        pass


async def test_a_service_bus_runs_in_the_current_event_loop() -> None:
    async with running_service_bus("plain") as bus:
        bus.freeze()
        bus.thaw()
        client = AsyncClient.from_connection_string(bus.connection_string)
        async with client, client.get_queue_sender("plain") as sender:
            await sender.send_messages(ServiceBusMessage("x"))
        assert bus.counts("plain")["active"] == 1


QUEUES = '{"UserConfig": {"Namespaces": [{"Name": "n", "Queues": [{"Name": "q"}]}]}}'


async def test_faults_are_controlled_over_http() -> None:
    endpoints = Endpoints(amqp_port=0, http_port=0)
    async with running_emulator(parse(QUEUES), endpoints) as running, httpx.AsyncClient() as http:
        url = f"{running.web.url}/emulator/servicebus"
        refusal = {"at": "send", "condition": "com.microsoft:server-busy", "queue": "q", "times": 1}
        answer = await http.put(url, json={"refusals": [refusal], "advance_seconds": 3600, "expire_locks": ["q"]})
        state = answer.json()
        assert state["refusals"] == [refusal | {"description": "Refused on demand."}]
        assert datetime.fromisoformat(state["now"]) > datetime.now(UTC) + timedelta(minutes=59)
        client = AsyncClient.from_connection_string(running.connection_string, retry_total=0)
        async with client, client.get_queue_sender("q") as sender:
            with pytest.raises(ServiceBusServerBusyError):
                await sender.send_messages(ServiceBusMessage("x"))
            await http.put(url, json={"drop_connections": True, "detach": [{"queue": "q"}]})
            await http.put(url, json={"frozen": True, "delay_seconds": 0.1})
            assert (await http.get(url)).json()["frozen"] is True
            state = (await http.put(url, json={"frozen": False, "delay_seconds": 0})).json()
            assert (state["frozen"], state["delay_seconds"], state["refusals"]) == (False, 0, [])


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"frozzen": True}, "frozzen: no such field"),
        ({"refusals": [{"at": "lunch", "condition": "a:b"}]}, "refusals[0].at: "),
        ({"refusals": [{"at": "send", "condition": "busy"}]}, "refusals[0].condition: "),
        ({"advance_seconds": -1}, "advance_seconds: "),
        ({"refusals": [{"at": "send", "condition": "a:b", "queue": "nobody"}]}, "'nobody' could not be found"),
        ({"drop_connections": True, "expire_locks": ["nobody"]}, "'nobody' could not be found"),
    ],
)
async def test_an_invalid_request_over_http_is_refused_and_changes_nothing(patch: object, said: str) -> None:
    endpoints = Endpoints(amqp_port=0, http_port=0)
    async with running_emulator(parse(QUEUES), endpoints) as running, httpx.AsyncClient() as http:
        answer = await http.put(f"{running.web.url}/emulator/servicebus", json=patch)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
