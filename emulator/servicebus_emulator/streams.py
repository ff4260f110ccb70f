"""Makes stdout and stderr take every character in every encoding, also if they are closed or their disk is full.

A stream in a legacy code page raises `UnicodeEncodeError`, a closed pipe `BrokenPipeError`, a full disk `OSError`. A
stream that was closed at the start is None. None of them may stop the emulator. Only output that is lost because
stdout cannot be written changes the exit status: see `exit_status`.
`flow_worker.cli.streams` does the same; the two packages do not know each other.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys

_ERRORS = "servicebus_emulator.readable"
_ASCII = {"\N{HORIZONTAL ELLIPSIS}": "...", "\N{RIGHTWARDS ARROW}": "->", "\N{EN DASH}": "-", "\N{EM DASH}": "-"}


EX_IOERR = 74
"""The exit status of a command whose output was lost; `sysexits.h` has the number, `os.EX_IOERR` is not on Windows."""


def prepare() -> None:
    """Prepare the streams of this process. Call it before anything keeps a reference to them."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)  # another type in tests
        if stream is None:  # closed at the start, or a program without a console
            setattr(sys, name, _null(os.O_RDONLY if name == "stdin" else os.O_WRONLY))
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, tolerant(stream))


def exit_status(status: str | int | None) -> str | int | None:
    """Return the status to exit with: this one, or 74 with a sentence on stderr if stdout could not be written.

    A failing stderr changes no status: it has no result.
    """
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, _Pipe) else None
    if failure is None:
        return status
    reason = os.strerror(failure.errno) if failure.errno else type(failure).__name__
    sys.stderr.write(f"The output is incomplete: stdout cannot be written ({reason}). Write it to another place.\n")
    sys.stderr.flush()
    return EX_IOERR


def _null(flags: int) -> io.TextIOWrapper:
    """Return a stream to the null device. It also takes the free descriptor, which a socket would get otherwise."""
    descriptor = os.open(os.devnull, flags)
    mode = "r" if flags == os.O_RDONLY else "w"
    return io.TextIOWrapper(open(descriptor, f"{mode}b", closefd=False), encoding="utf-8")


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
    """Discards what nobody reads any more, and what cannot be written."""

    owner: io.TextIOWrapper | None = None
    """The stream that closes the descriptor at its end."""
    _is_closed_by_reader = False
    failure: OSError | None = None
    """The last error by which output was lost, such as that of a full disk."""

    def write(self, data, /):  # type: ignore[no-untyped-def]
        """See `io.FileIO.write`."""
        if not self._is_closed_by_reader:
            try:
                return super().write(data)
            except OSError as error:
                # Windows reports a closed pipe as an invalid argument.
                if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL):
                    self._is_closed_by_reader = True
                else:
                    self.failure = error  # the next write is tried again: a disk may have room then
        return len(memoryview(data).cast("B"))


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_ASCII.get(one) or one.encode("unicode_escape").decode() for one in characters), error.end
