"""Configures all tests."""

from __future__ import annotations

import importlib
import pkgutil
import tracemalloc  # noqa: F401 - pytest's hook for lost warnings imports it late, and two threads at once then fail
from collections.abc import Generator

import pytest
from hypothesis import settings

import flow_contracts
import flow_worker
import servicebus_emulator
from tests.support.trust_store import trust_one_authority

_INDEPENDENT = (
    "tests/faults/test_dead_letters.py",
    "tests/faults/test_flow_isolation.py",
    "tests/faults/test_given_up.py",
    "tests/faults/test_killed_processes.py",
    "tests/faults/test_storm.py",
    "tests/faults/test_two_workers.py",
    "tests/faults/test_versions.py",
    "tests/faults/test_wrong_clocks.py",
    "tests/integration/bench/test_benchmarks.py",
)
"""Files of long tests that share no set-up: each test may run in another process."""

settings.register_profile("flow-worker", deadline=None)  # a busy machine is no finding
settings.load_profile("flow-worker")
trust_one_authority()


def pytest_sessionstart() -> None:
    """Import every module before the first test.

    pytest parses a module of the installed plugin when a test first imports it. CPython before 3.11.8 fails if another
    thread or a finalizer parses meanwhile, as the formatting of a traceback does: "SystemError: AST constructor
    recursion depth mismatch" (python/cpython issue 106905).
    """
    for package in (flow_contracts, flow_worker, servicebus_emulator):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keep the tests of a file in one process, because they share its set-up, except for `_INDEPENDENT` files."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # ships no types

    config.option.loadscopereorder = False  # keep the order of `pytest_collection_modifyitems`
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = _unit
    return scheduler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest tests: a slow one that begins last keeps one process busy while the others are idle.

    The limit of a test tells how slow it may be.
    """
    slowest: dict[str, float] = {}
    for item in items:
        unit = _unit(item.nodeid)
        slowest[unit] = max(slowest.get(unit, 0.0), _limit_seconds(item))
    items.sort(key=lambda item: -slowest[_unit(item.nodeid)])


def _unit(nodeid: str) -> str:
    """Return the name of the tests that run in one process together: the file, or the test itself."""
    file = nodeid.partition("::")[0]
    return nodeid if file in _INDEPENDENT else file


def _limit_seconds(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout")
    return float(limit.args[0]) if limit is not None else 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in the captured output of a test.

    xdist sends reports between processes as UTF-8, which cannot encode them.
    """
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report
