"""The page of traces names every attribute and event of the code."""

from __future__ import annotations

import re

from tests.unit.docs.code_names import span_attributes
from tests.unit.docs.pages import ROOT


def test_every_attribute_of_a_span_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "traces.md").read_text(encoding="utf-8")
    assert span_attributes() - set(re.findall(r"`([^`\n]+)`", page)) == set()
