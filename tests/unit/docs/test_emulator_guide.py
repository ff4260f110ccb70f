"""The worker's settings in the guide to the emulator are valid, and fit an emulator with its defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flow_worker import settings
from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from tests.unit.docs.pages import section

PAGE = "how-to/use-the-emulator.md"


def test_the_settings_of_the_guide_fit_an_emulator_with_its_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without a `.env` of this checkout
    file = tmp_path / "flow-worker.toml"
    file.write_text(_blocks("Run a worker against it", "toml")[0], encoding="utf-8")
    loaded = settings.load(file)
    identity = IdentityDefinition()
    assert loaded.claims.tenants == (str(identity.tenant_id),)
    assert loaded.claims.audiences == (identity.worker_audience,)
    assert list(loaded.flows) == ["create-quote"]
    assert loaded.plain_http_hosts == ("127.0.0.1:5380",)


def _blocks(heading: str, language: str) -> list[str]:
    pattern = rf"^ *```{language}\n(.*?)^ *```$"
    found = re.findall(pattern, section(PAGE, heading), re.MULTILINE | re.DOTALL)
    return [re.sub(r"^ {3}(?=\S)", "", block, flags=re.MULTILINE) for block in found]
