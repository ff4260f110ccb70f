"""The settings in the guide to the gateway are valid for the worker and for the gateway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flow_worker import settings
from flow_worker.settings.gateway_process import load_gateway
from tests.unit.docs.pages import ROOT, section

PAGE = "how-to/deploy-the-gateway.md"


def test_worker_and_gateway_take_the_minimal_settings_of_the_guide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without a `.env` of this checkout
    file = tmp_path / "flow-worker.toml"
    file.write_text(_toml("On one machine"), encoding="utf-8")
    worker, gateway = settings.load(file), load_gateway(file).gateway
    [queue] = worker.request_queues
    assert (queue.name, queue.authority, queue.reply_to) == (gateway.request_queue, "gateway", gateway.reply_queue)
    assert gateway.public_url == "https://flows.contoso.com"


def test_the_gateway_takes_the_settings_for_several_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shared = _toml("On one machine").split("[gateway]")[0]
    file = tmp_path / "flow-worker.toml"
    file.write_text(shared + _toml("Several machines"), encoding="utf-8")
    assert load_gateway(file).gateway.store.backend == "table"
    assert settings.load(file).statements.public_keys_file is not None


def test_the_image_exposes_the_ports_that_the_guide_lists() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    [exposed] = re.findall(r"^EXPOSE (.+)$", dockerfile, re.MULTILINE)
    assert re.findall(r"^\| (\d+) \|", section(PAGE, "In a container"), re.MULTILINE) == exposed.split()


def _toml(heading: str) -> str:
    block: str
    [block] = re.findall(r"^```toml\n(.*?)^```$", section(PAGE, heading), re.MULTILINE | re.DOTALL)
    return block
