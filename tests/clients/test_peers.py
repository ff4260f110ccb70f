"""Plain AMQP 1.0 clients work with the emulator: rhea (node/rhea.mjs) and Qpid Proton (python/qpid.py)."""

from __future__ import annotations

import pytest

from tests.clients.harness import Outcomes, checks_of, python_with, queues_for, run_node, run_python, running

RHEA = checks_of("node/rhea.mjs")
QPID = checks_of("python/qpid.py")
WITHOUT_SESSIONS = {"links_and_sessions_are_opened_and_closed_repeatedly": {"RequiresSession": False}}


@pytest.fixture(scope="module")
def rhea(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The results of the checks of rhea."""
    with running(tmp_path_factory.mktemp("rhea"), queues_for(RHEA, WITHOUT_SESSIONS)) as emulator:
        return run_node("rhea", emulator)


@pytest.mark.parametrize("check", RHEA)
def test_rhea(check: str, rhea: Outcomes) -> None:
    assert rhea[check] is None, rhea[check]


@pytest.fixture(scope="module")
def qpid(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The results of the checks of Proton."""
    python = python_with("proton", "Debian's package python3-qpid-proton, or pip with a C compiler, installs it")
    with running(tmp_path_factory.mktemp("qpid"), queues_for(QPID)) as emulator:
        return run_python("qpid", emulator, python=python)


@pytest.mark.parametrize("check", QPID)
def test_qpid_proton(check: str, qpid: Outcomes) -> None:
    assert qpid[check] is None, qpid[check]
