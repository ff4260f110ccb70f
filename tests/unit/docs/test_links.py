"""Every link between the pages leads to an existing file and an existing heading."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.docs.pages import DOCS, PAGES, ROOT, anchors, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_a_file_and_a_heading(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path) if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), (path, anchor)


def test_the_index_links_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(index.parent / path).resolve() for path, _ in links(index)}
    assert {page for page in PAGES if page.is_relative_to(DOCS)} - {index} <= linked


def test_the_check_finds_links_and_anchors() -> None:
    security = DOCS / "explanation" / "security.md"
    assert ("", "a-claim-is-a-bearer-token") in set(links(security))
    assert len([link for page in PAGES for link in links(page)]) > 100
    assert "the-audit-log" in anchors(security)
