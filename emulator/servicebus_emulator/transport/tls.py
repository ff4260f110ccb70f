"""What a listener that speaks TLS needs: the user's certificate, or one of our own (`emulator.certificates`)."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


class CertificateError(Exception):
    """TLS cannot be offered; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the certificate comes from: `certificate` and `private_key` (PEM), or else our own in `folder`.

    Without a folder it is `.flow-worker-emulator` in the user's home.
    """

    folder: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a listener needs, and what its clients do."""

    context: ssl.SSLContext
    ca_certificate: Path | None
    """The authority clients have to trust; None where the user brought the certificate."""


def server_tls(files: CertificateFiles, host: str) -> ServerTls:
    """TLS for who listens on `host`. Raises `CertificateError`."""
    if files.certificate is None and files.private_key is None:
        from servicebus_emulator.transport.certificates import (
            own,  # imported here: cryptography is large, and most starts do without
        )

        return own(files.folder or _default_folder(), host)
    if files.certificate is None or files.private_key is None:
        raise CertificateError("A certificate and its private key go together: give both files, or neither")
    return ServerTls(server_context(files.certificate, files.private_key), None)


def _default_folder() -> Path:
    try:
        return Path.home() / ".flow-worker-emulator"
    except RuntimeError as error:
        raise CertificateError("The user has no home folder to keep certificates in: name a folder") from error


def server_context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    """A server's, with this certificate and its key (PEM). Raises `CertificateError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for file in (certificate, private_key):
        if not file.is_file():
            raise CertificateError(f"{file}: there is no such file")
    try:
        # An encrypted key must not make the server ask for its password on the terminal.
        context.load_cert_chain(certificate, private_key, password=_refuse_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CertificateError(
            f"{certificate} with {private_key}: not a PEM certificate and its key ({reason})"
        ) from error
    return context


def _refuse_password() -> str:
    raise ValueError("the private key is encrypted")
