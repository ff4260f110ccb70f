"""The entry point of `flow-worker` and `python -m flow_worker`."""

from __future__ import annotations

import gc
import os
import signal
import sys
from itertools import takewhile

_INTERRUPTED = 130


def main() -> None:
    """Run the command line.

    No output may change the exit status, so the streams are prepared first: see `streams`.

    A worker that receives SIGTERM while it starts has nothing to finish, and exits with status 0. Without this handler,
    the first process of a container would ignore SIGTERM until `run` installs its own. Ctrl-C during the import ends
    the process at once: a `KeyboardInterrupt` in the middle of an import would print a traceback.
    """
    if {"-h", "--help", "--version"}.intersection(takewhile(lambda argument: argument != "--", sys.argv[1:])):
        gc.disable()  # the process ends after the text, and collections take a seventh of its time
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a parent may ignore it
    if is_interruptible:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    if sys.argv[1:2] == ["run"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from flow_worker.cli import interrupts, streams

    streams.prepare()
    interrupts.prepare()
    from flow_worker.cli.main import cli  # imported after the handler is installed: the import takes most of the start

    try:
        if is_interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli(prog_name="flow-worker")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except SystemExit as end:
        sys.exit(streams.exit_status(end.code))
    except Exception as error:
        if not interrupts.is_interrupt(error):
            raise
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
