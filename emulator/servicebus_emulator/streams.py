"""Makes stdout and stderr take every character in every encoding, and survive a reader that closes the pipe.

A stream in a legacy code page raises `UnicodeEncodeError`, a closed pipe `BrokenPipeError`. Neither may stop the
emulator or change an exit status. `flow_worker.cli.streams` does the same; the two packages do not know each other.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys

_ERRORS = "servicebus_emulator.readable"
_ASCII = {"\N{HORIZONTAL ELLIPSIS}": "...", "\N{RIGHTWARDS ARROW}": "->", "\N{EN DASH}": "-", "\N{EM DASH}": "-"}


def prepare() -> None:
    """Prepare the streams of this process. Call it before anything keeps a reference to them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)  # None in a program without a console; another type in tests
        if isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, tolerant(stream))


def tolerant(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to the same file that takes every character and passes over a closed pipe."""
    codecs.register_error(_ERRORS, _replaced)
    stream.reconfigure(errors=_ERRORS)
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return stream
    if stream.isatty():
        return stream
    stream.flush()
    pipe = _Pipe(descriptor, "wb", closefd=False)
    pipe.owner = stream
    return io.TextIOWrapper(
        io.BufferedWriter(pipe),
        encoding=stream.encoding,
        errors=_ERRORS,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Pipe(io.FileIO):
    """Discards what nobody reads any more."""

    owner: io.TextIOWrapper | None = None
    """The stream that closes the descriptor at its end."""
    _is_closed_by_reader = False

    def write(self, data, /):  # type: ignore[no-untyped-def]
        """See `io.FileIO.write`."""
        if not self._is_closed_by_reader:
            try:
                return super().write(data)
            except OSError as error:
                # Windows reports a closed pipe as an invalid argument.
                if not isinstance(error, BrokenPipeError) and not (os.name == "nt" and error.errno == errno.EINVAL):
                    raise
                self._is_closed_by_reader = True
        return len(memoryview(data).cast("B"))


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_ASCII.get(one) or one.encode("unicode_escape").decode() for one in characters), error.end
