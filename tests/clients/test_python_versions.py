"""An older release of azure-servicebus and its old transport work with the emulator: python/service_bus.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.harness import Outcomes, checks_of, from_pip, queues_for, run_python, running

CHECKS = checks_of("python/service_bus.py")
OLD = "azure-servicebus==7.14.3"


@pytest.fixture(scope="module")
def old_release(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The results of a release that settles messages without waiting for an answer."""
    release = from_pip(OLD)
    with running(tmp_path_factory.mktemp("old-release"), queues_for(CHECKS)) as emulator:
        return run_python("service_bus", emulator, {"PYTHONPATH": str(release)})


@pytest.mark.parametrize("check", CHECKS)
def test_an_old_release(check: str, old_release: Outcomes) -> None:
    assert old_release[check] is None, old_release[check]


@pytest.fixture(scope="module")
def over_uamqp(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The results of the current release over its old transport."""
    return by_uamqp("amqps", tmp_path_factory.mktemp("uamqp"))


def by_uamqp(transport: str, folder: Path, *only: str) -> Outcomes:
    release = from_pip("uamqp==1.6.11")
    options = (f"--{transport}-port", "0", "--certificates", str(folder))
    with running(folder, queues_for(CHECKS), *options) as emulator:
        return run_python("service_bus", emulator, {"PYTHONPATH": str(release), "UAMQP": transport}, only)


@pytest.mark.parametrize("check", CHECKS)
def test_over_uamqp_and_tls(check: str, over_uamqp: Outcomes) -> None:
    assert over_uamqp[check] is None, over_uamqp[check]


def test_over_uamqp_and_websocket(tmp_path: Path) -> None:
    check = "a_session_has_one_receiver"
    assert by_uamqp("wss", tmp_path, check) == {check: None}
