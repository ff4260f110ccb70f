"""Configures all tests."""

from __future__ import annotations

import tracemalloc  # noqa: F401 - pytest's hook for lost warnings imports it late, and two threads at once then fail
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("flow-worker", deadline=None)  # a busy machine is no finding
settings.load_profile("flow-worker")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in the captured output of a test.

    xdist sends reports between processes as UTF-8, which cannot encode them.
    """
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report
