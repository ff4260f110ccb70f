"""The settings page says of every setting what the model says, and its examples hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import annotated_types as at
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flow_worker import settings
from flow_worker.settings import DataverseSettings, FlowSettings, RequestQueue, Settings

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "settings.md"
ROW = re.compile(r"^\| `([\w.]+)` \| (.*?) \| (.*?) ?\|", re.MULTILINE)
EXAMPLE = re.compile(r"```toml\n(.*?)```", re.DOTALL)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Each setting and its path."""
    inner: dict[str, type[BaseModel]] = {
        "request_queues": RequestQueue,
        "flows": FlowSettings,
        "dataverse": DataverseSettings,
    }
    for name, field in model.model_fields.items():
        below: object = inner.get(name, field.annotation) if model is Settings else None
        if isinstance(below, type) and issubclass(below, BaseModel):
            yield from fields(below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def shown_default(field: FieldInfo) -> str:
    default: object = field.default
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return f"`{field.get_default(call_default_factory=True)}`"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in default) + "]`"
    if isinstance(default, str | Path):
        return f"`{default}`"
    return f"{default:g}" if isinstance(default, float) else str(default)


def shown_bounds(field: FieldInfo) -> str:
    return ", ".join(filter(None, map(shown_bound, field.metadata)))


def shown_bound(rule: object) -> str:
    match rule:
        case at.Ge(ge=bound):
            return f"≥ {bound}"
        case at.Gt(gt=bound):
            return f"> {bound}"
        case at.Le(le=bound):
            return f"≤ {bound}"
        case at.MinLen(min_length=bound):
            return f"length ≥ {bound}"
        case at.MaxLen(max_length=bound):
            return f"length ≤ {bound}"
        case _:
            return ""


def test_every_setting_is_on_the_page_with_its_default_and_bounds() -> None:
    documented = {name: (default, bounds) for name, default, bounds in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    assert documented == {name: (shown_default(field), shown_bounds(field)) for name, field in fields(Settings)}


@pytest.mark.parametrize("page", ["README.md", "docs/settings.md"])
def test_the_examples_hold(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert examples
    monkeypatch.chdir(tmp_path)
    for example in examples:
        (tmp_path / "flow-worker.toml").write_text(example, encoding="utf-8")
        assert "create-quote" in settings.load().flows
