"""Every file and folder that a page names exists, and every Python name with its module can be imported."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.unit.docs.code_names import metric_definitions, span_attributes
from tests.unit.docs.pages import PAGES, ROOT

_BASES = (ROOT, ROOT / "worker" / "flow_worker", ROOT / "emulator" / "servicebus_emulator")
_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"\.?[a-z][\w.-]*(?:/[\w.-]+)*/?")
_SUFFIXES = (".py", ".mjs", ".cs", ".toml", ".lock", ".yaml", "/")
_NOT_OURS = re.compile(r"^(?:conftest|test_orders|quote)\.py$|^(?:flow-worker|\.?config)\.toml$|^\.venv|^\.demo")
_QUALIFIED = re.compile(r"(?:flow_contracts|flow_worker|servicebus_emulator)(?:\.\w+)+")
_AUDIT_LOGGER = "flow_worker.audit"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_and_folders_that_a_page_names_exist(page: Path) -> None:
    for span in _SPAN.findall(page.read_text(encoding="utf-8")):
        if _PATH.fullmatch(span) and span.endswith(_SUFFIXES) and not _NOT_OURS.search(span):
            assert any((base / span).exists() for base in (page.parent, *_BASES)), span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_names_of_a_page_can_be_imported(page: Path) -> None:
    telemetry = {one.name for one in metric_definitions()} | span_attributes()
    for name in set(_QUALIFIED.findall(page.read_text(encoding="utf-8"))) - {_AUDIT_LOGGER} - telemetry:
        assert _is_importable(name), name


def _is_importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)
    return True
