"""Checks that the journal takes, returns, swaps and deletes a document. It uses a key of its own."""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from flow_worker.doctor.finding import Check, Result, failed, ok, unseen
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.build import open_store
from flow_worker.journal.store import Store
from flow_worker.settings import InvalidSettings, JournalSettings, Settings

_EXPIRY = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1)
"""Before every entry of a worker, so that the purge of the check deletes its own document only."""
_REMEDY = "Free or repair the journal's storage; until then the worker begins no request."

_WRITABLE = "Let the worker's user write the file and its folder: correct owner, mode and mount, or journal.path."


def checks(settings: Settings) -> list[Check]:
    """Return the check of the journal."""
    place = settings.journal.path if settings.journal.backend == "sqlite" else settings.journal.table_name
    return [Check("journal", f"{settings.journal.backend} {place}", partial(_check, settings))]


async def _check(settings: Settings) -> Result:
    journal = settings.journal
    try:
        if journal.backend == "sqlite" and (unready := _unready(journal.path.absolute())):
            return unready
        return await _try(journal, settings.identity.client_id)
    except InvalidSettings as error:
        return failed(str(error), "Correct the journal's settings.")
    except OSError as error:
        return failed(f"{journal.path} cannot be examined ({error.strerror or error})", _WRITABLE)
    except TemporarilyUnavailable as error:
        return failed(error.message, _REMEDY)


def _unready(path: Path) -> Result | None:
    """Return the result for a path that is not a journal yet, or that the worker could not open; else None."""
    if path.is_symlink() and not path.exists():
        return failed(f"{path} is a link to {os.path.realpath(path)}, which does not exist", _WRITABLE)
    if not path.exists():
        return _absent(path)
    if not path.is_file():
        return failed(f"{path} is no file", "Name a file on a local disk, in journal.path.")
    real = Path(os.path.realpath(path))
    if not os.access(real, os.W_OK):
        return failed(f"this user may not write the file {real}", _WRITABLE)
    if fault := _unwritable(real.parent):
        return failed(f"this user may not write in the folder {real.parent} ({fault})", _WRITABLE)
    if _is_blank(real):
        return unseen(f"{path} has no journal yet; the worker creates it in this file")
    return None


def _unwritable(folder: Path) -> str | None:
    """Return why no file can be created there. It is tried: permissions alone do not tell, for example in /proc."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _is_blank(path: Path) -> bool:
    """Return whether a file is empty, or a database without a journal: opening it as a journal would change it."""
    if path.stat().st_size == 0:
        return True
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as database:
            return bool(database.execute("PRAGMA user_version").fetchone()[0] == 0)
    except sqlite3.Error:
        return False


def _absent(path: Path) -> Result:
    """Check the folder only: a file that this command created could belong to another user than the worker's."""
    folder = next(parent for parent in path.parents if os.path.lexists(parent))
    if not folder.is_dir():
        return failed(f"{folder} is no folder", "Name a file in a folder of a local disk, in journal.path.")
    if fault := _unwritable(folder):
        return failed(
            f"the file does not exist, and this user may not create it in {folder} ({fault})",
            "Name a folder that the worker's user may write, in journal.path. If it is on a volume, mount it.",
        )
    if Path(f"{path}-reserve").exists():
        return failed(
            "the file is gone, but its reserve is still there: the journal was lost",
            "Stop all workers and restore it; otherwise calls that were in progress may be repeated.",
        )
    if folder != path.parent:
        return unseen(
            f"the folder {path.parent} does not exist: is the volume mounted?",
            f"Mount the volume, or create the folder. Otherwise the worker creates it in {folder}.",
        )
    return ok(f"does not exist yet; the worker creates it in {folder}")


async def _try(journal: JournalSettings, client_id: str | None) -> Result:
    # No reserve: the workers keep it.
    store = await open_store(journal.model_copy(update={"reserve_bytes": 0}), client_id)
    try:
        fault = await _exercise(store, secrets.token_hex(32))
        return failed(fault, _REMEDY) if fault else ok("a document was written, read, swapped and deleted")
    finally:
        try:
            await store.purge(_EXPIRY + timedelta(seconds=1), 10)
        finally:  # a table that is unreachable raises here, too
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
