"""The limit on open files, tested in a separate process because it cannot be restored."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="Windows has no limit of open files")

SCRIPT = """
import logging, resource
from servicebus_emulator.transport.open_files import raise_open_file_limit
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
raise_open_file_limit(1000)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def limit_with(hard: int) -> tuple[int, str]:
    """Return the limit after the call, and the log."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(hard=hard)], capture_output=True, text=True, timeout=30, check=True
    )
    return int(process.stdout), process.stderr


def test_a_low_limit_is_raised_for_the_connections() -> None:
    assert limit_with(hard=2000) == (1200, "")


def test_a_limit_that_cannot_be_raised_enough_is_logged() -> None:
    assert limit_with(hard=500) == (
        500,
        "The system allows 500 open files, so no 1000 connections; see `ulimit -n`.\n",
    )
