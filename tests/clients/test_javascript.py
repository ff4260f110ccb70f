"""@azure/service-bus on Node works with the emulator: the checks of node/service_bus.mjs and its neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.harness import JsonObject, Outcomes, checks_of, queues_for, run_node, running

CHECKS = checks_of("node/service_bus.mjs")
RECOVERY = checks_of("node/recovery.mjs")
ADMINISTRATION = checks_of("node/administration.mjs")
PROPERTIES: dict[str, JsonObject] = {
    "a_dead_letter_is_forwarded_with_its_source": {"ForwardDeadLetteredMessagesTo": "elsewhere"},
    "a_duplicate_is_dropped": {"RequiresDuplicateDetection": True},
    "a_lock_is_renewed_while_the_handler_works": {"LockDuration": "PT3S"},
    "a_lost_lock_is_reported": {"LockDuration": "PT2S"},
    "a_lost_session_lock_is_reported": {"LockDuration": "PT2S"},
    "a_message_expires": {"DeadLetteringOnMessageExpiration": True},
    "a_plain_queue_has_no_sessions": {"RequiresSession": False},
    "a_queue_with_receives_disabled_refuses_receivers": {"Status": "ReceiveDisabled"},
    "a_queue_with_sends_disabled_refuses_messages": {"Status": "SendDisabled"},
    "a_subscription_abandons_messages_whose_handler_fails": {"MaxDeliveryCount": 2},
}


QUEUES = queues_for(CHECKS, PROPERTIES) | {"elsewhere": {}}
OVER_TLS = (
    "messages_of_a_session_are_settled_in_every_way",
    "a_message_arrives_as_it_was_sent",
    "a_batch_is_limited_by_the_queues_maximum_message_size",
)


@pytest.fixture(scope="module")
def over_tcp(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The results of the checks over TCP."""
    with running(tmp_path_factory.mktemp("tcp"), QUEUES) as emulator:
        return run_node("service_bus", emulator)


@pytest.fixture(scope="module")
def over_websocket(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The results of the checks over WebSocket."""
    with running(tmp_path_factory.mktemp("ws"), QUEUES, "--ws-port", "0") as emulator:
        return run_node("service_bus", emulator, {"TRANSPORT": "ws"})


@pytest.mark.parametrize("check", CHECKS)
def test_over_tcp(check: str, over_tcp: Outcomes) -> None:
    assert over_tcp[check] is None, over_tcp[check]


@pytest.mark.parametrize("check", CHECKS)
def test_over_websocket(check: str, over_websocket: Outcomes) -> None:
    assert over_websocket[check] is None, over_websocket[check]


@pytest.mark.parametrize("transport", ["amqps", "wss"])
def test_over_tls(transport: str, tmp_path: Path) -> None:
    tls = (f"--{transport}-port", "0", "--certificates", str(tmp_path))
    with running(tmp_path, queues_for(OVER_TLS), *tls) as emulator:
        trust = {"TRANSPORT": transport, "NODE_EXTRA_CA_CERTS": emulator["ca_certificate"]}
        assert run_node("service_bus", emulator, trust, OVER_TLS) == dict.fromkeys(OVER_TLS)


@pytest.mark.parametrize("check", RECOVERY)
def test_recovery(check: str, tmp_path: Path) -> None:
    with running(tmp_path, queues_for(RECOVERY)) as emulator:
        assert run_node("recovery", emulator, only=[check])[check] is None


@pytest.fixture(scope="module")
def administration(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The results of the administration checks, which create their own queues."""
    folder = tmp_path_factory.mktemp("administration")
    with running(folder, {}, "--admin-https-port", "0", "--certificates", str(folder)) as emulator:
        return run_node("administration", emulator, {"NODE_EXTRA_CA_CERTS": emulator["ca_certificate"]})


@pytest.mark.parametrize("check", ADMINISTRATION)
def test_administration(check: str, administration: Outcomes) -> None:
    assert administration[check] is None, administration[check]
