"""Makes TLS contexts cheap in the processes of the tests: they trust one certificate instead of some 140.

Each HTTP client reads the trusted certificates when it is made, also for an address without TLS, and OpenSSL takes
40 ms of processor time for those of a machine. The worker makes several clients, and a test that waits for a worker
makes one for each probe.
"""

from __future__ import annotations

import os
from pathlib import Path

_NAME = "SSL_CERT_FILE"
_MACHINES = "TESTS_MACHINES_SSL_CERT_FILE"
_ONE = str(Path(__file__).with_name("one_authority.pem"))


def trust_one_authority() -> None:
    """Let this process and those that it starts trust the one certificate. A test may set another file."""
    if os.environ.get(_NAME) != _ONE:
        os.environ[_MACHINES] = os.environ.get(_NAME, "")
        os.environ[_NAME] = _ONE


def of_the_machine(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment for a program that reaches public servers, such as pip."""
    others = {name: value for name, value in environment.items() if name not in (_NAME, _MACHINES)}
    files = os.environ.get(_MACHINES)
    return others | ({_NAME: files} if files else {})
