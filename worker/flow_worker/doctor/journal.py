"""Checks that the journal takes, returns, swaps and deletes a document. It uses a key of its own."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from flow_worker.doctor.finding import Check, Result, failed, ok
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.build import open_store
from flow_worker.journal.store import Store
from flow_worker.settings import InvalidSettings, JournalSettings, Settings

_EXPIRY = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1)
"""Before every entry of a worker, so that the purge of the check deletes its own document only."""
_REMEDY = "Free or repair the journal's storage; until then the worker begins no request."


def checks(settings: Settings) -> list[Check]:
    """Return the check of the journal."""
    place = settings.journal.path if settings.journal.backend == "sqlite" else settings.journal.table_name
    return [Check("journal", f"{settings.journal.backend} {place}", partial(_check, settings))]


async def _check(settings: Settings) -> Result:
    journal = settings.journal
    if journal.backend == "sqlite" and not journal.path.exists():
        return _absent(journal.path)
    try:
        return await _try(journal, settings.identity.client_id)
    except InvalidSettings as error:
        return failed(str(error), "Correct the journal's settings.")
    except TemporarilyUnavailable as error:
        return failed(error.message, _REMEDY)


def _absent(path: Path) -> Result:
    """Check the folder only: a file that this command created could belong to another user than the worker's."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK):
        return failed(
            f"the file does not exist, and this user may not create it in {folder}",
            "Name a folder that the worker's user may write, in journal.path.",
        )
    if Path(f"{path}-reserve").exists():
        return failed(
            "the file is gone, but its reserve is still there: the journal was lost",
            "Stop all workers and restore it; otherwise calls that were in progress may be repeated.",
        )
    return ok(f"does not exist yet; the worker creates it in {folder}")


async def _try(journal: JournalSettings, client_id: str | None) -> Result:
    # No reserve: the workers keep it.
    store = await open_store(journal.model_copy(update={"reserve_bytes": 0}), client_id)
    try:
        fault = await _exercise(store, secrets.token_hex(32))
        return failed(fault, _REMEDY) if fault else ok("a document was written, read, swapped and deleted")
    finally:
        await store.purge(_EXPIRY + timedelta(seconds=1), 10)
        await store.close()


async def _exercise(store: Store, key: str) -> str | None:
    """Return what the store did wrong; None if nothing."""
    first = await store.write(key, b"{}", None, _EXPIRY)
    stored = await store.read(key)
    if first is None or stored is None or stored.document != b"{}":
        return "a document that was written cannot be read"
    second = await store.write(key, b"{ }", stored.version, _EXPIRY)
    if second is None:
        return "a document cannot be replaced"
    if await store.write(key, b"{  }", stored.version, _EXPIRY) is not None:
        return "an old version replaces a newer one"
    return None
