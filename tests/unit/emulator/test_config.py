"""The configuration file: its fields, and the error for a fault in it."""

import json
from pathlib import Path

import pytest

from servicebus_emulator import config
from servicebus_emulator.servicebus.configuration.fields import ConfigError


def refusal(flow_worker: object) -> str:
    document = {"UserConfig": {"Namespaces": [{"Name": "n", "Queues": [{"Name": "q"}]}]}, "FlowWorker": flow_worker}
    with pytest.raises(ConfigError) as caught:
        config.parse(json.dumps(document))
    return str(caught.value)


def test_the_default_configuration_has_the_queues_and_the_sample_flows() -> None:
    loaded = config.load()
    assert [queue.name for queue in loaded.queues] == [
        "flow-requests",
        "dataverse-requests",
        "flow-continuations",
        "flow-replies",
        "flow-requests-gateway",
        "flow-replies-gateway",
    ]
    requests, native, continuations, replies, of_gateway, gateway_replies = loaded.queues
    assert of_gateway.requires_duplicate_detection
    assert (of_gateway.lock_seconds, of_gateway.max_delivery_count) == (300, 10)
    assert not gateway_replies.requires_session, "all replicas of a gateway compete for the results"
    assert gateway_replies.requires_duplicate_detection
    assert gateway_replies.default_ttl_seconds == 86_400
    assert not native.requires_duplicate_detection, "Dataverse sets no message ID"
    assert requests.requires_duplicate_detection
    assert requests.lock_seconds == 300
    assert requests.max_delivery_count == 10
    assert continuations.requires_duplicate_detection
    assert replies.requires_session
    assert replies.requires_duplicate_detection
    assert replies.default_ttl_seconds == 3600
    assert {flow.name for flow in loaded.http.flows} == {
        "create-quote",
        "notify-team",
        "slow-report",
        "quarterly-report",
        "busy-ledger",
        "broken-approval",
    }


def test_the_default_configuration_passes_the_checks_that_a_start_skips() -> None:
    assert config.parse(config.DEFAULT.read_text(encoding="utf-8")) == config.load()


def test_a_configuration_of_the_official_emulator_is_accepted_unchanged() -> None:
    document = {"UserConfig": {"Namespaces": [{"Name": "n", "Queues": [{"Name": "q"}]}], "Logging": {"Type": "File"}}}
    loaded = config.parse(json.dumps(document))
    assert [queue.name for queue in loaded.queues] == ["q"]
    assert loaded.http.flows == ()
    assert loaded.http.identity.worker_audience == "api://flow-worker"


@pytest.mark.parametrize(
    ("flow_worker", "place", "remedy"),
    [
        ([], "FlowWorker:", "must be a JSON object"),
        ({"Flow": []}, "FlowWorker.Flow:", "no such field"),
        ({"Flows": {}}, "FlowWorker.Flows:", "must be a JSON array"),
        ({"Flows": [{}]}, "FlowWorker.Flows[0].Name:", "is required"),
        ({"Flows": [{"Name": "a/b"}]}, "FlowWorker.Flows[0].Name:", "pattern"),
        ({"Flows": [{"Name": "a"}, {"Name": "a"}]}, "FlowWorker.Flows:", "two flows named 'a'"),
        ({"Flows": [{"Name": "a", "DelaySecond": 1}]}, "FlowWorker.Flows[0].DelaySecond:", "no such field"),
        ({"Flows": [{"Name": "a", "delay_seconds": 1}]}, "FlowWorker.Flows[0].delay_seconds:", "no such field"),
        ({"Flows": [{"Name": "a", "DelaySeconds": -1}]}, "FlowWorker.Flows[0].DelaySeconds:", "greater than"),
        ({"Flows": [{"Name": "a", "InputSchema": {"type": "objekt"}}]}, "InputSchema:", "at $.type"),
        ({"Flows": [{"Name": "a", "Response": {"Status": 302}}]}, "Response.Status:", "2xx, 4xx or 5xx"),
        ({"Flows": [{"Name": "a", "Response": {"Body": 1, "Echo": True}}]}, "Response:", "at most one of Body"),
        ({"Flows": [{"Name": "a", "Response": {"Headers": {"x": "a\nb"}}}]}, "Response.Headers.x:", "pattern"),
        ({"Flows": [{"Name": "a", "Faults": [{"Kind": "boom"}]}]}, "Flows[0].Faults[0].Kind:", "'hang'"),
        ({"Identity": {"TenantId": "contoso"}}, "FlowWorker.Identity.TenantId:", "valid UUID"),
        ({"Identity": {"FlowAudiences": []}}, "FlowWorker.Identity.FlowAudiences:", "at least 1"),
    ],
)
def test_a_fault_in_the_section_flow_worker_is_named_by_its_path(flow_worker: object, place: str, remedy: str) -> None:
    message = refusal(flow_worker)
    assert place in message
    assert remedy in message


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("{", "line 1 column 2", "not JSON"),
        ('{\n "UserConfig": x}', "line 2 column 16", "not JSON"),
        ("[]", "(top level)", "must be a JSON object"),
        ("[" * 100_000, "(top level)", "nested too deeply"),
        ('{"Flows": []}', "Flows", "no such section; known: UserConfig, FlowWorker"),
        ("{}", "UserConfig", "must be a JSON object"),
    ],
)
def test_a_malformed_document_is_refused_with_its_place(text: str, place: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    assert caught.value.path == place
    assert reason in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read"):
        config.load(tmp_path / "missing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ConfigError, match=r"not UTF-8"):
        config.load(tmp_path / "binary.json")


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config.DEFAULT.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert config.load(tmp_path / "config.json") == config.load()
