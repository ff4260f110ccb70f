"""The entry point of `servicebus-emulator` and `python -m servicebus_emulator`."""

from __future__ import annotations

import gc
import os
import signal
import sys
from itertools import takewhile

_INTERRUPTED = 130


def main() -> None:
    """Run the command line.

    Ctrl-C during the import ends the process at once: a `KeyboardInterrupt` in the middle of an import would print a
    traceback. Where a parent ignores Ctrl-C, so does this process.
    """
    if {"-h", "--help", "--version"}.intersection(takewhile(lambda argument: argument != "--", sys.argv[1:])):
        gc.disable()  # the process ends after the text, and collections take a seventh of its time
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    from servicebus_emulator import interrupts, streams

    streams.prepare()
    interrupts.prepare()
    from servicebus_emulator.cli import cli  # imported after the handler is installed

    try:
        if is_interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli(prog_name="servicebus-emulator")
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
