"""The choice of a server certificate: the user's files, or one of the emulator's own authority."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from servicebus_emulator.transport.tls_context import CertificateError, ServerTls, server_context


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The source of the certificate: `certificate` and `private_key` (PEM), or a generated one in `folder`.

    Without a folder, generated certificates are kept in `.flow-worker-emulator` in the user's home folder.
    """

    folder: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None


def server_tls(files: CertificateFiles, host: str) -> ServerTls:
    """Return the TLS of a listener on `host`. Raises `CertificateError` if no certificate is available."""
    if files.certificate is None and files.private_key is None:
        # Imported here because cryptography is large and most starts do not use TLS.
        from servicebus_emulator.transport.certificates import generated_tls

        return generated_tls(files.folder or _default_folder(), host)
    if files.certificate is None or files.private_key is None:
        raise CertificateError("A certificate and its private key go together: give both files, or neither")
    return ServerTls(server_context(files.certificate, files.private_key), None)


def _default_folder() -> Path:
    try:
        return Path.home() / ".flow-worker-emulator"
    except RuntimeError as error:
        raise CertificateError("The user has no home folder to keep certificates in: name a folder") from error
