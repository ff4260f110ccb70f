"""The settings page says of every setting what the model says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from worker.settings import FlowSettings, RequestQueue, Settings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "settings.md"
ROW = re.compile(r"^\| `([\w.]+)` \| (.*?) \|", re.MULTILINE)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each setting's path and default; Ellipsis: required."""
    inner: dict[str, type[BaseModel]] = {"request_queues": RequestQueue, "flows": FlowSettings}
    for name, field in model.model_fields.items():
        below: object = inner.get(name, field.annotation)
        if isinstance(below, type) and issubclass(below, BaseModel):
            yield from settings(below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ... if field.is_required() else field.default


def shown(default: object) -> str:
    """A default as the page writes it."""
    if default is ...:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in default) + "]`"
    if isinstance(default, str):
        return f"`{default}`"
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_every_setting_is_on_the_page_with_its_default() -> None:
    documented = dict(ROW.findall(PAGE.read_text(encoding="utf-8")))
    assert documented == {name: shown(default) for name, default in settings(Settings)}
