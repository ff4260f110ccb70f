"""Generates a local certificate authority and a server certificate on first use, and keeps them in a folder.

The certificates follow RFC 5280 strictly enough for Python 3.13 (`VERIFY_X509_STRICT`) and browsers. Both have key
identifiers; key usage and basic constraints are critical; host names are subject alternative names.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from servicebus_emulator.transport.addresses import WILDCARD_ADDRESSES
from servicebus_emulator.transport.tls_context import CertificateError, ServerTls, server_context

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 365
_RENEW_BEFORE = timedelta(days=30)
_CLOCK_SKEW = timedelta(hours=1)
_LOCK_SECONDS = 30.0
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def generated_tls(folder: Path, host: str) -> ServerTls:
    """Return the TLS of a listener on `host`, with the certificates of the folder or new ones.

    The authority is kept for as long as it is valid, so clients need to trust it once. The server certificate is
    replaced if it expires soon or lacks a name. Raises `CertificateError` if the folder is not writable.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _exclusive_lock(folder):
            authority_file = folder / "ca-key.pem"
            authority = _Credential.load(authority_file) or _Credential.new_authority().save(authority_file)
            _write(folder / "ca.pem", authority.certificate_pem, mode=0o644)
            server_file = folder / "server-key.pem"
            names = _host_names(host)
            server = _Credential.load(server_file)
            if server is None or not server.covers(names, authority):
                _Credential.new_server(names, authority).save(server_file)
            # The context is loaded under the lock: another emulator may replace the file for its own host names.
            return ServerTls(server_context(server_file, server_file), folder / "ca.pem")
    except (OSError, sqlite3.Error) as error:
        raise CertificateError(f"Certificates cannot be kept in {folder}: {error}") from error


@contextmanager
def _exclusive_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two emulators that start together must not create two authorities.

    The lock is an SQLite transaction. It is the only lock of the standard library that works on every platform and
    ends with the process.
    """
    with closing(sqlite3.connect(folder / "lock", timeout=_LOCK_SECONDS, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        yield


def _host_names(host: str) -> tuple[str, ...]:
    candidates = [*_LOCAL_NAMES, socket.gethostname(), *([] if host in WILDCARD_ADDRESSES else [host])]
    return tuple(dict.fromkeys(name.lower() for name in candidates if _can_be_certified(name)))


def _can_be_certified(name: str) -> bool:
    """Return False for a host name that no certificate can carry, such as one with an empty label."""
    try:
        _general_name(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Credential:
    """A certificate and its private key, in one file, so that a crash cannot leave a pair that does not match."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @classmethod
    def load(cls, file: Path) -> _Credential | None:
        """Read a credential; return None if the file is missing or damaged, or if the certificate expires soon."""
        try:
            pem = file.read_bytes()
            certificate, key = x509.load_pem_x509_certificate(pem), load_pem_private_key(pem, None)
        except (FileNotFoundError, ValueError, TypeError):
            return None
        if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            return None
        now = datetime.now(UTC)
        valid = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - _RENEW_BEFORE
        return cls(certificate, key) if valid else None

    @classmethod
    def new_authority(cls) -> _Credential:
        """Create a certificate authority."""
        key = generate_private_key(SECP256R1())
        name = _name(f"Local Service Bus emulator of {socket.gethostname()}"[:64])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = (
            _builder(name, name, key, _AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        )
        return cls(builder.sign(key, SHA256()), key)

    @classmethod
    def new_server(cls, names: tuple[str, ...], authority: _Credential) -> _Credential:
        """Create a server certificate for these names and addresses."""
        key = generate_private_key(SECP256R1())
        issuer = authority.certificate
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            _builder(_name("localhost"), issuer.subject, key, _SERVER_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        )
        return cls(builder.sign(authority.key, SHA256()), key)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def save(self, file: Path) -> _Credential:
        """Write the certificate and the key to a file that only its owner may read."""
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(file, private + self.certificate_pem, mode=0o600)
        return self

    def covers(self, names: tuple[str, ...], authority: _Credential) -> bool:
        """Return True if this authority issued the certificate, and if it is valid for all these names."""
        try:
            self.certificate.verify_directly_issued_by(authority.certificate)
            covered = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        return {_general_name(name) for name in names} <= set(covered)


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """Write a file atomically; leave it alone if its content is the same. `mode` has no effect on Windows."""
    if file.exists() and file.read_bytes() == content:
        return
    temporary = file.with_name(f"{file.name}.new")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(temporary, flags, mode), "wb") as new:
        new.write(content)
    temporary.replace(file)
