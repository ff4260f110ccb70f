"""Finds the key that seals continuation messages: in the settings, in a file, or in a new file beside the journal."""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from flow_worker.access.key_file import await_content, create, restrict
from flow_worker.journal.reserve import FULL_DISK
from flow_worker.pipeline.seal import Seal, SealKey
from flow_worker.settings import ContinuationSettings, InvalidSettings, JournalSettings
from flow_worker.settings.groups import MIN_SEAL_KEY_CHARACTERS, seal_key_fault
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_MAX_FILE_BYTES = 4096
_RETRY_SECONDS = 1.0


async def open_seal(continuations: ContinuationSettings, journal: JournalSettings) -> Seal:
    """Return the seal of the worker's continuation queue, and create its key beside the journal if there is none.

    Waits while the journal's disk is full. Raises `InvalidSettings` for a key that can never be used.
    """
    file = key_file(continuations, journal)
    while file is not None:
        try:
            await asyncio.to_thread(ensure_key, file)
            break
        except OSError as error:
            if error.errno not in FULL_DISK:
                cause = f"'{file}' cannot be created ({error.strerror}); set the key, or name a file"
                raise InvalidSettings(f"continuations.seal_key: {cause}") from None
            sentence = f"The disk has no room for '{file}', the key of the continuation messages. The worker retries."
            log(_log, logging.WARNING, "continuations.seal_key_unavailable", sentence)
            await asyncio.sleep(_RETRY_SECONDS)
    seal = await asyncio.to_thread(find_seal, continuations, journal)
    if seal is None:  # somebody deleted the file just now
        raise InvalidSettings(f"continuations.seal_key: the file '{file}' was deleted; start the worker again")
    _report(seal)
    return seal


def find_seal(continuations: ContinuationSettings, journal: JournalSettings) -> Seal | None:
    """Return the seal by the existing key; None if no worker has created the key yet. Raises `InvalidSettings`."""
    secret = _secret("seal_key", continuations.seal_key, continuations.seal_key_file)
    if secret is None and (file := key_file(continuations, journal)) is not None and file.exists():
        secret = _read("seal_key", file)
    if secret is None:
        return None
    previous = _secret("previous_seal_key", continuations.previous_seal_key, continuations.previous_seal_key_file)
    if previous == secret:
        raise InvalidSettings(
            "continuations.previous_seal_key is the same key as continuations.seal_key; set the key that was in use "
            "before, or remove it"
        )
    return Seal(
        continuations.queue,
        SealKey(secret),
        SealKey(previous) if previous is not None else None,
        valid_for=timedelta(seconds=journal.retention_seconds),
        accept_unsealed=continuations.unsealed == "accept",
    )


def key_file(continuations: ContinuationSettings, journal: JournalSettings) -> Path | None:
    """Return the path of the key beside the journal; None if the settings name a key, or the journal is no file."""
    named = continuations.seal_key is not None or continuations.seal_key_file is not None
    return None if named or journal.backend != "sqlite" else Path(f"{journal.path}-seal-key").absolute()


def _secret(setting: str, value: SecretStr | None, file: Path | None) -> bytes | None:
    if value is not None:
        return value.get_secret_value().strip().encode()
    return None if file is None else _read(f"{setting}_file", file)


def _read(setting: str, file: Path) -> bytes:
    """Return the key in the file. No message repeats a part of it."""
    try:
        with file.open("rb") as opened:
            secret = opened.read(_MAX_FILE_BYTES).strip()
    except OSError as error:
        cause = f"'{file}' cannot be read ({error.strerror}); name a file that the worker's user may read"
        raise InvalidSettings(f"continuations.{setting}: {cause}") from None
    if fault := seal_key_fault(secret):
        raise InvalidSettings(f"continuations.{setting}: '{file}' {fault}")
    return secret


def ensure_key(file: Path) -> None:
    """Create the file with a new key unless there is one, and keep other users from it. Raises `OSError`."""
    if not file.exists():
        _create(file)
    await_content(file, MIN_SEAL_KEY_CHARACTERS)
    restrict(file)


def _create(file: Path) -> None:
    create(file, secrets.token_hex(32).encode())


def _report(seal: Seal) -> None:
    sentence = f"The worker seals continuation messages with the key {seal.key.id}. All workers must have the same."
    previous = seal.previous.id if seal.previous is not None else None
    log(_log, logging.INFO, "continuations.sealed", sentence, seal_key=seal.key.id, previous_seal_key=previous)
    if seal.accepts_unsealed:
        sentence = (
            "The worker accepts continuation messages without a seal, from anybody who may send to their queue. Remove "
            "continuations.unsealed when the workers of earlier versions are gone."
        )
        log(_log, logging.WARNING, "continuations.unsealed_accepted", sentence)
