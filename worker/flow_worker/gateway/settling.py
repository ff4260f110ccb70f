"""Reads from the body of a stored result if it may be settled, and if it is a settling one."""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import from_json

from flow_contracts.result import Status
from flow_worker.gateway.store.port import StoredResult

_MAX_BYTES: Final = 128 * 1024
"""A result without an output is smaller, and only such a result is `unknown` or settles one."""


def may_be_settled(result: StoredResult) -> bool:
    """Return whether a settling result may follow: the worker does not know how the flow ended."""
    return bool(_field(result, "status") == Status.UNKNOWN.value)


def is_settling(result: StoredResult) -> bool:
    """Return whether the result stands instead of an `unknown` one that it settles."""
    return _field(result, "settled_by") is not None


def _field(result: StoredResult, name: str) -> Any:
    if len(result.body) > _MAX_BYTES:
        return None
    try:
        document = from_json(result.body)
    except ValueError:
        return None
    return document.get(name) if isinstance(document, dict) else None
