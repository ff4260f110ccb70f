"""A small file system in memory, for tests of a full disk. Only root on POSIX systems may mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class CannotMount(Exception):
    """This user or this system cannot mount a file system."""


def mount(folder: Path, megabytes: int) -> None:
    """Create the folder and mount a file system of this size on it. Raises `CannotMount`."""
    command = shutil.which("mount")
    if command is None or sys.platform == "win32" or os.geteuid() != 0:
        raise CannotMount("only root on a POSIX system may mount a small file system")
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run([command, *options], capture_output=True, text=True, check=False)
    if mounted.returncode:
        folder.rmdir()
        raise CannotMount(mounted.stderr.strip())


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a small file system on the new folder for the time of a test; skip the test if that is impossible."""
    try:
        mount(folder, megabytes)
    except CannotMount as reason:
        pytest.skip(f"a small file system cannot be mounted here: {reason}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
