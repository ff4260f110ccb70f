"""The settings page states each setting's default and bounds as the model does, and the examples are valid settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import annotated_types as at
import pytest
from pydantic.fields import FieldInfo

from flow_worker import settings
from flow_worker.settings.schema import settings_in, settings_schema
from tests.unit.docs import setting_descriptions
from tests.unit.docs.code_names import setting_fields, setting_names
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


def test_the_package_has_the_descriptions_of_the_page() -> None:
    assert setting_descriptions.COPY.read_text(encoding="utf-8") == setting_descriptions.text(), (
        "run: python -m tests.unit.docs.setting_descriptions"
    )


def test_every_setting_has_a_description_in_the_schema_for_editors() -> None:
    schema = settings_schema()
    described = {path: _description(setting, schema) for path, setting in settings_in(schema)}
    assert set(described) >= setting_names()
    assert {path: text for path, text in described.items() if not re.search(r"\w\W+\w.*\.$", text, re.DOTALL)} == {}
    assert described["health.port"].startswith("The probes, the status and the metrics. 0: no endpoint.")
    assert "](" not in "".join(described.values()), "links are for the page"


def _description(setting: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the description of a setting, or of the group that it is."""
    if "description" not in setting and "$ref" in setting:
        return _description(schema["$defs"][setting["$ref"].rpartition("/")[2]], schema)
    return str(setting.get("description", ""))


@pytest.mark.parametrize("page", ["docs/how-to/deploy.md", "docs/reference/settings.md"])
def test_the_examples_are_valid_settings(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert examples
    monkeypatch.chdir(tmp_path)
    for example in examples:
        (tmp_path / "flow-worker.toml").write_text(example, encoding="utf-8")
        assert "create-quote" in settings.load().flows
