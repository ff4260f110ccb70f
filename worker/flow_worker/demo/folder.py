"""The folder of one demo: temporary, or kept in the working directory and locked against a second demo."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flow_worker.demo.locks import is_locked_now
from flow_worker.demo.processes import CHILD_LOCKS, DemoError

KEPT_FOLDER = ".demo"
"""The folder of `--keep`, below the working directory. A demo beside another one appends a number."""
_LOCK = "demo.lock"
_MAX_FOLDERS = 100


@contextlib.contextmanager
def demo_folder(*, keep: bool) -> Iterator[Path]:
    """Yield the folder of the settings and logs. Raise `DemoError` if it cannot be made.

    With `keep` it is in the working directory, where the user can read it, and its logs stay. Otherwise it is a
    temporary one that is deleted at the end.
    """
    if keep:
        with _kept_folder(Path.cwd()) as folder:
            yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix="flow-worker-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _kept_folder(parent: Path) -> Iterator[Path]:
    """Yield the first folder that no other demo uses; delete all but its logs at the end."""
    for number in range(1, _MAX_FOLDERS + 1):
        folder = parent / (KEPT_FOLDER if number == 1 else f"{KEPT_FOLDER}-{number}")
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)  # also if it existed: claims, logs and the journal are in it
            lock = (folder / _LOCK).open("a", encoding="utf-8")
        except OSError as error:
            raise DemoError(f"{folder} cannot be used: {error.strerror}. Run the demo in another folder.") from None
        with lock:
            if not is_locked_now(lock) or _has_children(folder):
                continue
            _clear(folder)  # what a killed demo left: its journal belongs to an emulator that is gone
            try:
                yield folder
            finally:
                _clear(folder)
            return
    raise DemoError(f"{_MAX_FOLDERS} demos run in {parent}. Stop one of them, or use another folder.")


def _has_children(folder: Path) -> bool:
    """Return True if a process of another demo runs in the folder: each holds its lock until it ends."""
    for name in CHILD_LOCKS:
        with (folder / name).open("a", encoding="utf-8") as lock:
            if not is_locked_now(lock):
                return True
    return False


def _clear(folder: Path) -> None:
    """Delete all but the logs, which a person may want to read afterwards, and the lock."""
    for path in folder.iterdir():
        if path.suffix != ".log" and path.name != _LOCK:
            with contextlib.suppress(OSError):  # Windows deletes no open file
                path.unlink()


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read. An existing file is replaced, with its mode and its readers."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
