from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusClient

from flow_contracts.client import FlowClientSync, ResultTimeout
from flow_contracts.request import InvalidRequest
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus.conversion import to_sdk
from tests.integration.contracts.broker_thread import BrokerThread


@pytest.mark.usefixtures("answering")
def test_the_blocking_client_submits_waits_polls_and_takes(broker: BrokerThread) -> None:
    with FlowClientSync.from_connection_string(broker.connection_string) as client:
        correlation_id = client.submit("f", {"a": 1}, claim="token")
        waited = client.wait(correlation_id, timeout=60)
        assert waited.output == {"a": 1}
        assert client.poll(correlation_id) == waited
        assert client.take(correlation_id) == waited
        assert client.poll(correlation_id) is None


def test_the_blocking_client_returns_a_result_once(broker: BrokerThread) -> None:
    result = FlowResult(status=Status.SUCCEEDED, correlation_id="twice", request_message_id="m")
    with (
        FlowClientSync.from_connection_string(broker.connection_string, reply_queue="copied-replies") as client,
        ServiceBusClient.from_connection_string(broker.connection_string) as sdk,
        sdk.get_queue_sender("copied-replies") as sender,
    ):
        for _ in range(2):
            sender.send_messages(to_sdk(result.to_message("twice", timedelta(hours=1))))
        assert client.take("twice") == result
        assert client.take("twice") is None
    assert broker.count("copied-replies")["active"] == 0


@pytest.mark.usefixtures("answering")
def test_several_threads_share_one_background_client(broker: BrokerThread) -> None:
    with (
        FlowClientSync.from_connection_string(broker.connection_string) as client,
        client.background() as background,
        ThreadPoolExecutor(8) as pool,
    ):
        results = list(pool.map(lambda number: background.request("f", number, timeout=40), range(40)))
        correlation_id = background.submit("f", "apart")
        assert background.wait(correlation_id, timeout=60).output == "apart"
    assert [result.output for result in results] == list(range(40))


def test_the_blocking_client_raises_the_same_errors(broker: BrokerThread) -> None:
    with FlowClientSync.from_connection_string(broker.connection_string) as client:
        with pytest.raises(ResultTimeout, match=r"'c' within 0\.5 s"):
            client.wait("c", timeout=0.5)
        with pytest.raises(InvalidRequest):
            client.submit("")


def test_a_malformed_connection_string_is_refused_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError):
        FlowClientSync.from_connection_string("nonsense")
    assert threading.active_count() == before
