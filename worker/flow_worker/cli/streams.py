"""Makes stdout and stderr take every character in every encoding, also if they are closed or their disk is full.

A stream in a legacy code page (the default of a pipe on Windows) raises `UnicodeEncodeError` for a check mark. A closed
pipe (`flow-worker … | head`) raises `BrokenPipeError`, a full disk `OSError`. A stream that was closed at the start
(`>&-`) is None. Each would replace the exit status of the command by 1, which `check-access` uses for "refused".
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys

ERRORS = "flow_worker.readable"
"""The error handler of the streams; see `replacement`."""

_ASCII = {
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LEFTWARDS ARROW}": "<-",
    "\N{UPWARDS ARROW}": "^",
    "\N{DOWNWARDS ARROW}": "v",
    "\N{RIGHTWARDS DOUBLE ARROW}": "=>",
    "\N{CHECK MARK}": "+",
    "\N{HEAVY CHECK MARK}": "+",
    "\N{SQUARE ROOT}": "+",
    "\N{BALLOT X}": "!",
    "\N{HEAVY BALLOT X}": "!",
    "\N{MULTIPLICATION X}": "x",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{WARNING SIGN}": "!",
    "\N{BULLET}": "*",
    "\N{MIDDLE DOT}": "*",
    "\N{BLACK CIRCLE}": "*",
    "\N{WHITE CIRCLE}": "o",
    "\N{CIRCLE WITH LEFT HALF BLACK}": "o",
    "\N{HYPHEN}": "-",
    "\N{NON-BREAKING HYPHEN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    "\N{DOUBLE LOW-9 QUOTATION MARK}": '"',
    "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}": '"',
    "\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}": '"',
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{NOT EQUAL TO}": "!=",
    "\N{ALMOST EQUAL TO}": "~",
    "\N{MICRO SIGN}": "u",
    "\N{NO-BREAK SPACE}": " ",
    "\N{THIN SPACE}": " ",
    "\N{NARROW NO-BREAK SPACE}": " ",
}
"""Symbols of this program's own texts. Tables align by single characters, so most have a single one."""
_LINES, _BLOCKS, _BRAILLE = range(0x2500, 0x2580), range(0x2580, 0x25A0), range(0x2800, 0x2900)
"""Unicode ranges that rich draws tables, bars and spinners with."""
_VERTICAL = frozenset("│┃┆┇┊┋║╎╏╵╷╹╻")
_HORIZONTAL = frozenset("─━┄┅┈┉═╌╍╴╶╸╺╼╾")


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
    codecs.register_error(ERRORS, _replaced)
    stream.reconfigure(errors=ERRORS)
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # no file, such as a buffer in memory
        return stream
    if stream.isatty():
        return stream  # it has no reader that leaves, and Windows writes to it by other calls
    stream.flush()
    pipe = _Pipe(descriptor, "wb", closefd=False)
    pipe.owner = stream
    return io.TextIOWrapper(
        io.BufferedWriter(pipe),
        encoding=stream.encoding,
        errors=ERRORS,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Pipe(io.FileIO):
    """Discards what nobody reads any more, and what cannot be written."""

    owner: io.TextIOWrapper | None = None
    """The stream that closes the descriptor at its end."""
    is_closed_by_reader = False
    failure: OSError | None = None
    """The last error by which output was lost, such as that of a full disk."""

    def write(self, data, /):  # type: ignore[no-untyped-def]
        """See `io.FileIO.write`."""
        if not self.is_closed_by_reader:
            try:
                return super().write(data)
            except OSError as error:
                # Windows reports a closed pipe as an invalid argument.
                if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL):
                    self.is_closed_by_reader = True
                else:
                    self.failure = error  # the next write is tried again: a disk may have room then
        return len(memoryview(data).cast("B"))


def is_unicode(encoding: str | None) -> bool:
    """Return whether a stream with this encoding takes every character."""
    return (encoding or "").lower().replace("_", "-").startswith(("utf-", "utf8", "utf16", "utf32"))


def replacement(character: str) -> str:
    """Return a character in ASCII: a symbol as one that looks like it, another character as its JSON escape.

    The escape also keeps a JSON text valid. `\\xe9`, which Python writes by default, is no JSON.
    """
    code = ord(character)
    if (symbol := _ASCII.get(character)) is not None:
        return symbol
    if code in _LINES:
        return "|" if character in _VERTICAL else "-" if character in _HORIZONTAL else "+"
    if code in _BLOCKS:
        return "#"
    if code in _BRAILLE:
        return "*"
    if code > 0xFFFF:
        high, low = divmod(code - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
    return f"\\u{code:04x}"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(replacement, error.object[error.start : error.end])), error.end
