"""Readable messages from pydantic's validation errors."""

from __future__ import annotations

from pydantic import ValidationError

_REMEDIES = {
    "extra_forbidden": "no such field; check its spelling",
    "missing": "is required",
    "model_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "tuple_type": "must be a JSON array",
}


def explain(error: ValidationError) -> str:
    """Return the first fault of a request in one line: the field, and the value that is allowed."""
    path, message = first_fault(error)
    return f"{path.removeprefix('.') or '(body)'}: {message}"


def first_fault(error: ValidationError, root: str = "") -> tuple[str, str]:
    """Return the path of the first faulty field, below ``root``, and the fault."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
    return path, _REMEDIES.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
