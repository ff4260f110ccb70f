"""@azure/service-bus on Node finds in the emulator what it finds in Service Bus: the checks of node/service_bus.mjs."""

from __future__ import annotations

import os

import pytest

from tests.clients.harness import JsonObject, checks_of, run_checks, running

CHECKS = checks_of("service_bus.mjs")
PROPERTIES: dict[str, JsonObject] = {
    "a_duplicate_is_dropped": {"RequiresDuplicateDetection": True},
    "a_lock_is_renewed_while_the_handler_works": {"LockDuration": "PT3S"},
    "a_lost_lock_is_reported": {"LockDuration": "PT2S"},
    "a_lost_session_lock_is_reported": {"LockDuration": "PT2S"},
    "a_message_expires": {"DeadLetteringOnMessageExpiration": True},
    "a_subscription_abandons_what_its_handler_fails_on": {"MaxDeliveryCount": 2},
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What Node said of each check."""
    queues = {
        name: {"RequiresSession": "session" in name and "plain" not in name} | PROPERTIES.get(name, {})
        for name in CHECKS
    }
    with running(tmp_path_factory.mktemp("javascript"), queues) as emulator:
        return run_checks("service_bus.mjs", emulator, os.environ)


@pytest.mark.parametrize("check", CHECKS)
def test_over_tcp(check: str, outcomes: dict[str, str | None]) -> None:
    assert outcomes[check] is None, outcomes[check]
