"""The settings page states each setting's default and bounds as the model does, and the examples are valid settings."""

from __future__ import annotations

import re
from pathlib import Path

import annotated_types as at
import pytest
from pydantic.fields import FieldInfo

from flow_worker import settings
from tests.unit.docs.code_names import setting_fields
from tests.unit.docs.pages import ROOT

PAGE = ROOT / "docs" / "reference" / "settings.md"
ROW = re.compile(r"^\| `([\w.]+)` \| (.*?) \| (.*?) ?\|", re.MULTILINE)
EXAMPLE = re.compile(r"```toml\n(.*?)```", re.DOTALL)


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


def test_the_page_lists_every_setting_with_its_default_and_bounds() -> None:
    documented = {name: (default, bounds) for name, default, bounds in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    assert documented == {name: (shown_default(field), shown_bounds(field)) for name, field in setting_fields()}


@pytest.mark.parametrize("page", ["docs/how-to/deploy.md", "docs/reference/settings.md"])
def test_the_examples_are_valid_settings(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert examples
    monkeypatch.chdir(tmp_path)
    for example in examples:
        (tmp_path / "flow-worker.toml").write_text(example, encoding="utf-8")
        assert "create-quote" in settings.load().flows
