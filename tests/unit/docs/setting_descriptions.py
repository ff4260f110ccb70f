"""Writes `settings/descriptions.json` from the settings page: `python -m tests.unit.docs.setting_descriptions`.

The page is the source. The package holds the copy, because `flow-worker schema settings` works without the docs.
"""

from __future__ import annotations

import json
import re

from tests.unit.docs.pages import ROOT

PAGE = ROOT / "docs" / "reference" / "settings.md"
COPY = ROOT / "worker" / "flow_worker" / "settings" / "descriptions.json"
_ROW = re.compile(r"^\| `([\w.]+)` \| .*? \| .*? ?\| (.+) \|$", re.MULTILINE)
_LINK = re.compile(r"\[((?:`[^`]*`|[^\]`])*)\]\([^)]*\)")


def descriptions() -> dict[str, str]:
    """Return the meaning of each setting on the page, as plain text, by the setting's path."""
    rows = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    return {name: _LINK.sub(r"\1", meaning).replace("`", "") for name, meaning in rows}


def text() -> str:
    """Return the content of the copy."""
    return json.dumps(descriptions(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    COPY.write_text(text(), encoding="utf-8")
