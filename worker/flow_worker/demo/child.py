"""Runs a module as a child process of the demo: `python -m flow_worker.demo.child LOCK MODULE ARGUMENT …`.

The child ends when the demo ends, even if the demo was killed: the operating system then closes the demo's end of the
child's standard input. Until it ends, the child holds the lock, so that no other demo takes its folder.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from pathlib import Path

from flow_worker.demo.locks import is_locked_now


def main() -> None:
    """Lock the file, watch standard input, and run the module as `__main__`."""
    lock_file, module, *arguments = sys.argv[1:]
    with Path(lock_file).open("a", encoding="utf-8") as lock:
        is_locked_now(lock)
        threading.Thread(target=_end_with, args=(_private_stdin(),), daemon=True, name="parent").start()
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _private_stdin() -> int:
    """Return a new descriptor of standard input, whose place an empty file takes.

    On Windows a process that inherits a pipe hangs at its start while this process reads from it.
    """
    private = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return private


def _end_with(parent: int) -> None:
    # Not through `sys.stdin`: the interpreter cannot exit while a thread holds the lock of its buffer.
    try:
        while os.read(parent, 1):
            pass
    except OSError:  # Windows: the pipe is broken
        pass
    # At once, because nobody reads the results, and a drain would wait for an emulator that ends as well.
    os._exit(1)


if __name__ == "__main__":
    main()
