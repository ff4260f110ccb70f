"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def worker_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("flow-worker")
    except PackageNotFoundError:  # started from a folder that nobody installed
        return "unknown"
