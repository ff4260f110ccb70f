"""The files of `flow-worker demo --keep` belong to the user alone, also where an earlier run left others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from flow_worker.demo import run
from flow_worker.demo.environment import DemoEnvironment

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows knows no file modes")


class Emulator:
    connection_string = "Endpoint=sb://127.0.0.1:1;"

    def mint(self, *_: str) -> str:
        return "a-claim"


class Environment:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.emulator = Emulator()


def test_an_existing_sender_env_is_replaced_by_a_private_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched", encoding="utf-8")
    path = tmp_path / "sender.env"
    for leftover in ("file", "link"):
        path.unlink(missing_ok=True)
        if leftover == "file":
            path.write_text("old", encoding="utf-8")
            path.chmod(0o644)
        else:
            path.symlink_to(elsewhere)
        with path.open(encoding="utf-8") as reader:
            run._write_sender_settings(cast(DemoEnvironment, Environment(tmp_path)))
            assert reader.read() in {"old", "untouched"}, "an earlier reader does not see the new claim"
        assert path.stat().st_mode & 0o777 == 0o600
        assert "FLOW_WORKER_CLAIM='a-claim'" in path.read_text(encoding="utf-8")
    assert elsewhere.read_text(encoding="utf-8") == "untouched"


def test_an_existing_folder_of_the_demo_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / run.KEPT_FOLDER).mkdir()
    (tmp_path / run.KEPT_FOLDER).chmod(0o755)
    with run._folder(keep=True) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
