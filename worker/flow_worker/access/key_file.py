"""Files with a key that a program creates itself: written whole or not at all, and for no other user to read."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flow_worker.journal.reserve import FULL_DISK

_MAX_EMPTY_SECONDS = 2
_RENAME_ATTEMPTS = 20
_RENAME_PAUSE_SECONDS = 0.05


def create(file: Path, content: bytes) -> None:
    """Create the file with a new key. If another process was faster, leave that one's file. Raises `OSError`."""
    with _written_beside(file, content, 0o600) as written:
        _publish(written, file)
    _flush_names(file.parent)


def replace(file: Path, content: bytes, mode: int) -> None:
    """Write the file anew. A reader sees the earlier content or this one, never a part. Raises `OSError`."""
    with _written_beside(file, content, mode) as written:
        _rename(written, file)
    _flush_names(file.parent)


def _rename(written: Path, file: Path) -> None:
    """Replace the file. Windows refuses that for the moment in which another process reads it."""
    for _ in range(_RENAME_ATTEMPTS):
        try:
            written.replace(file)
        except PermissionError:
            if os.name == "posix":
                raise
            time.sleep(_RENAME_PAUSE_SECONDS)
        else:
            return
    written.replace(file)


@contextmanager
def _written_beside(file: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Write a file with another name in the same folder, and remove that name afterwards."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(written, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            # A power cut must not lose a key that other files or messages depend on.
            os.fsync(opened.fileno())
        yield written
    finally:
        with contextlib.suppress(FileNotFoundError):
            written.unlink()


def await_content(file: Path, min_bytes: int) -> None:
    """Wait until the process that creates the file has written it, for a moment."""
    deadline = time.monotonic() + _MAX_EMPTY_SECONDS
    while file.stat().st_size < min_bytes and time.monotonic() < deadline:
        time.sleep(0.02)


def restrict(file: Path) -> None:
    """Take the rights on the file from other users: a person or a backup may have restored it without its mode."""
    if os.name == "posix" and file.stat().st_mode & 0o077:
        with contextlib.suppress(PermissionError):  # the file belongs to another user
            file.chmod(0o600)


def _publish(written: Path, file: Path) -> None:
    """Give the written file its name. Of several processes that start together, one does; the others find its file."""
    try:
        os.link(written, file)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        # A file system without hard links. A reader may see the file before its content; see `await_content`.
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(written.read_bytes())


def _flush_names(folder: Path) -> None:
    """Let the file's name survive a power cut too. Windows opens no folders, and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
