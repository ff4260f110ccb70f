"""The entry point of `flow-worker` and `python -m flow_worker`."""

from __future__ import annotations

import signal
import sys

from flow_worker.cli import streams


def main() -> None:
    """Run the command line.

    No output may change the exit status, so the streams are prepared first: see `streams`.

    A worker that receives SIGTERM while it starts has nothing to finish, and exits with status 0. Without this handler,
    the first process of a container would ignore SIGTERM until `run` installs its own.
    """
    streams.prepare()
    if sys.argv[1:2] == ["run"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from flow_worker.cli.main import cli  # imported after the handler is installed: the import takes most of the start

    cli(prog_name="flow-worker")


if __name__ == "__main__":
    main()
