"""Names the port and its setting in the error of a program that cannot listen."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class CannotListen(OSError):
    """The message is for a person: it names the address, the cause and the setting to change."""


@contextmanager
def listening(host: str, port: int, setting: str) -> Iterator[None]:
    """Run a block that opens a socket. Raises `CannotListen` for its `OSError`.

    `setting`: of the port, such as `gateway.health_port`.
    """
    try:
        yield
    except OSError as error:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            cause = f"another program uses the port. Stop it, or change {setting}."
        else:
            cause = f"{error.strerror or error}. Change {setting.removesuffix('port')}host or {setting}."
        raise CannotListen(f"Cannot listen on {address}: {cause}") from error
