"""Configures all tests."""

from __future__ import annotations

import importlib
import pkgutil
import tracemalloc  # noqa: F401 - pytest's hook for lost warnings imports it late, and two threads at once then fail
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

import flow_contracts
import flow_worker
import servicebus_emulator

settings.register_profile("flow-worker", deadline=None)  # a busy machine is no finding
settings.load_profile("flow-worker")


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files: a slow file that begins last keeps one process busy while the others are idle.

    The limit of a test tells how slow it may be. xdist keeps this order with `--no-loadscope-reorder`.
    """
    slowest: dict[Path, float] = {}
    for item in items:
        slowest[item.path] = max(slowest.get(item.path, 0.0), _limit_seconds(item))
    items.sort(key=lambda item: -slowest[item.path])


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
