"""The TLS context of a server, from certificate files."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


class CertificateError(Exception):
    """TLS is not available. The message names the file and its fault."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The TLS context of a listener, and the authority that its clients must trust."""

    context: ssl.SSLContext
    ca_certificate: Path | None
    """None if the user supplied the certificate."""


def server_context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    """Return a server's context for a certificate chain and its key (PEM, one file or two).

    Raises `CertificateError` if a file is missing, is not PEM, or the key is encrypted or does not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for file in (certificate, private_key):
        if not file.is_file():
            raise CertificateError(f"{file}: there is no such file")
    try:
        # Without this callback OpenSSL asks for the password of an encrypted key on the terminal, and the server hangs.
        context.load_cert_chain(certificate, private_key, password=_refuse_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CertificateError(
            f"{certificate} with {private_key}: not a PEM certificate and its key ({reason})"
        ) from error
    return context


def _refuse_password() -> str:
    raise ValueError("the private key is encrypted")
