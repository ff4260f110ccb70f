"""`flow-worker`, and `python -m flow_worker`: the way in."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line. A worker that is asked to stop before it has begun has nothing to finish and exits 0.

    As a container's first process it would otherwise not hear SIGTERM until its parts are imported.
    """
    if sys.argv[1:2] == ["run"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from flow_worker.cli.main import cli  # imported after the handler is there: it takes most of the start

    cli(prog_name="flow-worker")


if __name__ == "__main__":
    main()
