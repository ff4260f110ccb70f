"""@azure/service-bus on Node finds in the emulator what it finds in Service Bus: the checks of node/service_bus.mjs."""

from __future__ import annotations

import pytest

from tests.clients.harness import JsonObject, Outcomes, checks_of, queues_for, run_node, running

CHECKS = checks_of("node/service_bus.mjs")
PROPERTIES: dict[str, JsonObject] = {
    "a_duplicate_is_dropped": {"RequiresDuplicateDetection": True},
    "a_lock_is_renewed_while_the_handler_works": {"LockDuration": "PT3S"},
    "a_lost_lock_is_reported": {"LockDuration": "PT2S"},
    "a_lost_session_lock_is_reported": {"LockDuration": "PT2S"},
    "a_message_expires": {"DeadLetteringOnMessageExpiration": True},
    "a_plain_queue_has_no_sessions": {"RequiresSession": False},
    "a_subscription_abandons_what_its_handler_fails_on": {"MaxDeliveryCount": 2},
}


@pytest.fixture(scope="module")
def over_tcp(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What Node said of each check."""
    with running(tmp_path_factory.mktemp("javascript"), queues_for(CHECKS, PROPERTIES)) as emulator:
        return run_node("service_bus", emulator)


@pytest.mark.parametrize("check", CHECKS)
def test_over_tcp(check: str, over_tcp: Outcomes) -> None:
    assert over_tcp[check] is None, over_tcp[check]
