"""The key of the continuation messages: in the settings, in a file, or made once beside the journal."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from flow_worker.runtime import seal_keys
from flow_worker.runtime.seal_keys import ensure_key, find_seal, open_seal
from flow_worker.settings import ContinuationSettings, InvalidSettings, JournalSettings
from flow_worker.telemetry.health import Health

KEY = "hushhush" * 4
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX modes")


def journal(folder: Path) -> JournalSettings:
    return JournalSettings(path=folder / "journal.sqlite3")


@posix
async def test_the_first_worker_makes_the_key_beside_the_journal_for_its_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert find_seal(ContinuationSettings(), journal(folder)) is None
    made = await open_seal(ContinuationSettings(), journal(folder))
    file = folder / "journal.sqlite3-seal-key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_bytes()) == 64
    assert (await open_seal(ContinuationSettings(), journal(folder))).key.id == made.key.id
    assert [one.name for one in folder.iterdir()] == [file.name]


@posix
async def test_rights_of_others_on_an_existing_key_are_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite3-seal-key"
    file.write_text(KEY, encoding="ascii")
    file.chmod(0o644)
    await open_seal(ContinuationSettings(), journal(tmp_path))
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text(encoding="ascii") == KEY


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_workers_that_start_together_have_one_key(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)

    def start(_: int) -> str:
        ensure_key(tmp_path / "journal.sqlite3-seal-key")
        seal = find_seal(ContinuationSettings(), journal(tmp_path))
        assert seal is not None
        return seal.key.id

    with ThreadPoolExecutor(16) as starting:
        assert len(set(starting.map(start, range(64)))) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_key_of_the_settings_and_one_of_a_file_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n", encoding="ascii")
    by_value = find_seal(ContinuationSettings(seal_key=SecretStr(KEY)), journal(tmp_path))
    by_file = find_seal(ContinuationSettings(seal_key_file=file), journal(tmp_path))
    other = ContinuationSettings(seal_key=SecretStr(KEY[::-1]), previous_seal_key_file=file)
    by_previous_file = find_seal(other, journal(tmp_path))
    assert by_value is not None
    assert by_file is not None
    assert by_previous_file is not None
    assert by_previous_file.previous is not None
    assert by_value.key.id == by_file.key.id == by_previous_file.previous.id


def test_a_previous_key_that_is_the_key_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite3-seal-key"
    file.write_text(f"{KEY}\n", encoding="ascii")
    key = SecretStr(KEY)
    for settings in (
        ContinuationSettings(seal_key=key, previous_seal_key=key),
        ContinuationSettings(seal_key=key, previous_seal_key_file=file),
        ContinuationSettings(previous_seal_key=key),  # beside the journal there is the same
    ):
        with pytest.raises(InvalidSettings, match=r"continuations\.previous_seal_key is the same key") as error:
            find_seal(settings, journal(tmp_path))
        assert "hush" not in str(error.value)


@pytest.mark.parametrize("content", [None, "", "short", " " * 80, "x" * 64])
def test_a_file_without_a_key_is_named_and_not_quoted(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content, encoding="ascii")
    with pytest.raises(InvalidSettings, match=r"continuations\.previous_seal_key_file: '.*key'") as error:
        find_seal(ContinuationSettings(seal_key=SecretStr(KEY), previous_seal_key_file=file), JournalSettings())
    assert "short" not in str(error.value)
    with pytest.raises(InvalidSettings, match=r"continuations\.seal_key_file: '.*key'"):
        find_seal(ContinuationSettings(seal_key_file=file), JournalSettings())


@pytest.mark.parametrize(
    "settings",
    [
        {"seal_key": "hush"},
        {"seal_key": KEY[:31]},
        {"seal_key": " " * 64},
        {"seal_key": "0" * 64},
        {"previous_seal_key": f" {'a' * 64}\n"},
        {"previous_seal_key": "hush"},
        {"seal_key": KEY, "seal_key_file": "key"},
        {"previous_seal_key": KEY, "previous_seal_key_file": "key"},
        {"unsealed": "trust"},
    ],
    ids=str,
)
def test_weak_and_ambiguous_keys_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        ContinuationSettings.model_validate(settings)
    assert "hush" not in str(error.value)


def test_the_settings_and_the_readiness_report_show_no_key() -> None:
    settings = ContinuationSettings(seal_key=SecretStr(KEY), unsealed="accept")
    assert "hush" not in settings.model_dump_json() + repr(settings)
    seal = find_seal(settings, JournalSettings())
    assert seal is not None
    health = Health()
    health.seal = seal.summary()
    assert health.report()["continuations"] == {
        "seal_key": seal.key.id,
        "previous_seal_key": None,
        "unsealed": "accept",
    }
    assert len(seal.key.id) == 8


async def test_a_worker_waits_for_room_on_the_disk_of_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    create, refusals = seal_keys._create, [OSError(28, "No space left on device")]

    def full_at_first(file: Path) -> None:
        if refusals:
            raise refusals.pop()
        create(file)

    monkeypatch.setattr(seal_keys, "_RETRY_SECONDS", 0)
    monkeypatch.setattr(seal_keys, "_create", full_at_first)
    await open_seal(ContinuationSettings(), journal(tmp_path))
    assert "The disk has no room for" in caplog.text


async def test_a_folder_that_the_worker_may_not_write_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidSettings, match=r"continuations\.seal_key: '.*' cannot be created"):
        await open_seal(ContinuationSettings(), journal(tmp_path / "file"))
