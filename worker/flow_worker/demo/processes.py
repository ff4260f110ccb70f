"""Starts and stops the demo's child processes."""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

STOP_SECONDS = 45.0
_STOP_SIGNAL = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
_LOG_LINES = 15
EMULATOR_LOCK, WORKER_LOCK, GATEWAY_LOCK = CHILD_LOCKS = ("emulator.lock", "worker.lock", "gateway.lock")
"""The locks of the child processes, in their working directory."""


class DemoError(Exception):
    """The demo cannot continue. The message says why and includes the end of the failing process's log."""


def start(
    module: list[str], *, lock: str, stdout: int | None, stderr: IO[str], cwd: Path, env: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start a module with its arguments as a process in its own process group. It ends with this process."""
    # Ctrl-C goes to the terminal's whole foreground group. In their own groups the children do not get it, and the
    # demo can stop the worker before the emulator.
    if sys.platform == "win32":
        flags, new_session = subprocess.CREATE_NEW_PROCESS_GROUP, False
    else:
        flags, new_session = 0, True
    return subprocess.Popen(  # noqa: S603 - the demo's own commands
        [sys.executable, "-m", "flow_worker.demo.child", lock, *module],
        stdout=stdout,
        stderr=stderr,
        stdin=subprocess.PIPE,  # its end tells the child that this process is gone
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env={**env, "PYTHONIOENCODING": "utf-8"},  # whatever the encoding of this program's own streams
        creationflags=flags,
        start_new_session=new_session,
    )


def stop(process: subprocess.Popen[str], name: str) -> None:
    """Send SIGTERM (Ctrl-Break on Windows) and wait. Raise `DemoError` if the process does not exit in time."""
    if process.poll() is None:
        process.send_signal(_STOP_SIGNAL)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise DemoError(f"The {name} did not stop within {STOP_SECONDS:g} s; the demo killed it.") from None
    finally:
        if process.stdin is not None:
            process.stdin.close()


def first_line(stream: IO[str], seconds: float) -> str | None:
    """Return the first line of a process's output; an empty string at its end, None if no line arrives in time."""
    lines: queue.Queue[str] = queue.Queue()
    # A thread, because a read from a pipe has no timeout on Windows. It goes on reading, so that the pipe never fills
    # up and blocks the process.
    threading.Thread(target=_pump, args=(stream, lines), daemon=True, name="emulator stdout").start()
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return None


def _pump(stream: IO[str], lines: queue.Queue[str]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def log_tail(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])
