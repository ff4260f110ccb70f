"""The processes of the demo end with it, however it ends, and hold its folder until then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flow_worker.demo import processes
from flow_worker.demo.folder import KEPT_FOLDER, demo_folder

MODULE = """
import sys
print("child", sys.argv[1:], __name__, repr(sys.stdin.read()), flush=True)
import time
time.sleep(60)
"""
DEMO = """
import os, subprocess, sys
from pathlib import Path
from flow_worker.demo import processes
from flow_worker.demo.folder import demo_folder
with demo_folder(keep=True) as folder, (folder / "child.log").open("w") as log:
    child = processes.start(["module", "one", "two"], lock=processes.WORKER_LOCK,
        stdout=subprocess.PIPE, stderr=log, cwd=folder, env=os.environ)
    print(child.pid, child.stdout.readline(), end="", flush=True)
    sys.stdin.read()
"""
SIGNALS = """
import signal, sys, time
from flow_worker.demo import run
signal.signal(getattr(signal, sys.argv[1]), signal.SIG_DFL)  # the tests may run under nohup
run._stop_on_signals()
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    signal.raise_signal(getattr(signal, sys.argv[1]))
    print("cleaned", flush=True)
"""


def environment(folder: Path) -> dict[str, str]:
    (folder / "module.py").write_text(MODULE, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_a_killed_demo_takes_its_processes_along_and_they_hold_its_folder_until_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", DEMO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(tmp_path),
        text=True,
    ) as demo:
        assert demo.stdout is not None
        child, _, line = demo.stdout.readline().partition(" ")
        assert line.strip() == "child ['one', 'two'] __main__ ''", "the module reads no input"
        if os.name != "nt":  # a process that cannot end yet
            os.kill(int(child), signal.SIGSTOP)
        demo.kill()
    if os.name != "nt":
        with demo_folder(keep=True) as folder:
            assert folder.name == f"{KEPT_FOLDER}-2"
        os.kill(int(child), signal.SIGCONT)
    with (tmp_path / KEPT_FOLDER / processes.WORKER_LOCK).open("a", encoding="utf-8") as lock:
        wait_for_lock(lock.fileno())
    with demo_folder(keep=True) as folder:
        assert folder.name == KEPT_FOLDER, "the processes are gone"


def wait_for_lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends neither signal")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_demo_that_a_signal_ends_cleans_up_also_if_the_signal_comes_twice(name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SIGNALS, name], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == "ready\n"
        number = getattr(signal, name)
        demo.send_signal(number)
        assert demo.stdout.read() == "cleaned\n"
        assert demo.wait() == 128 + number


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_nohup_lets_the_demo_outlive_its_terminal() -> None:
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from flow_worker.demo import run; "
    program += "run._stop_on_signals(); signal.raise_signal(signal.SIGHUP); print('alive')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "alive\n"


def test_a_stopped_process_leaves_no_open_pipe(tmp_path: Path) -> None:
    with (tmp_path / "child.log").open("w", encoding="utf-8") as log:
        process = processes.start(
            ["module"], lock="a.lock", stdout=subprocess.PIPE, stderr=log, cwd=tmp_path, env=environment(tmp_path)
        )
        assert process.stdout is not None
        with process.stdout as output:
            assert output.readline().startswith("child []")
            processes.stop(process, "child")
        assert process.stdin is not None
        assert process.stdin.closed
