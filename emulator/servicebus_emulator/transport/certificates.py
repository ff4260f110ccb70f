"""A certificate authority and a server certificate of our own, made on first use.

The shape of the certificates follows RFC 5280, strictly enough for Python 3.13 (`VERIFY_X509_STRICT`) and browsers.
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

from servicebus_emulator.transport.tls import CertificateError, ServerTls, server_context

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 365
_RENEW_BEFORE = timedelta(days=30)
_CLOCK_SKEW = timedelta(hours=1)
_LOCK_SECONDS = 30.0
_ALWAYS = ("localhost", "127.0.0.1", "::1")
_EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - what a user may listen on, not what we choose


def own(folder: Path, host: str) -> ServerTls:
    """TLS for who listens on `host`, with what is kept in the folder. Raises `CertificateError`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(folder):
            authority = _Pair.kept(folder / "ca-key.pem") or _Pair.authority().keep(folder / "ca-key.pem")
            _write(folder / "ca.pem", authority.certificate_pem, mode=0o644)
            server = folder / "server-key.pem"
            names = _names(host)
            kept = _Pair.kept(server)
            if kept is None or not kept.serves(names, authority):
                _Pair.server(names, authority).keep(server)
            return ServerTls(server_context(server, server), folder / "ca.pem")
    except (OSError, sqlite3.Error) as error:
        raise CertificateError(f"Certificates cannot be kept in {folder}: {error}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two emulators that start at once must not make two authorities.

    An SQLite transaction is the one lock of the standard library that is the same on every platform and goes away
    with a process that dies.
    """
    with closing(sqlite3.connect(folder / "lock", timeout=_LOCK_SECONDS, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        yield


def _names(host: str) -> tuple[str, ...]:
    wanted = [*_ALWAYS, socket.gethostname(), *([] if host in _EVERY_ADDRESS else [host])]
    return tuple(dict.fromkeys(name.lower() for name in wanted if _can_be_certified(name)))


def _can_be_certified(name: str) -> bool:
    """Machines have been given names that no certificate can carry."""
    try:
        _general_name(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate and its key; kept in one file, so that no crash can part them."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @classmethod
    def kept(cls, file: Path) -> _Pair | None:
        """What an earlier run kept; None where it is missing, damaged or soon to expire."""
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
    def authority(cls) -> _Pair:
        """A new certificate authority."""
        key = generate_private_key(SECP256R1())
        name = _name(f"Local Service Bus emulator of {socket.gethostname()}"[:64])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        draft = (
            _draft(name, name, key, _AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        )
        return cls(draft.sign(key, SHA256()), key)

    @classmethod
    def server(cls, names: tuple[str, ...], authority: _Pair) -> _Pair:
        """A new certificate for these names and addresses."""
        key = generate_private_key(SECP256R1())
        issuer = authority.certificate
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        draft = (
            _draft(_name("localhost"), issuer.subject, key, _SERVER_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        )
        return cls(draft.sign(authority.key, SHA256()), key)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def keep(self, file: Path) -> _Pair:
        """Write both to a file only its owner may read."""
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(file, private + self.certificate_pem, mode=0o600)
        return self

    def serves(self, names: tuple[str, ...], authority: _Pair) -> bool:
        """Whether it is for all these names, and of this authority."""
        try:
            self.certificate.verify_directly_issued_by(authority.certificate)
            known = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        return {_general_name(name) for name in names} <= set(known)


def _draft(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
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


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
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
    """All of it or nothing, and unchanged where it is there already. `mode` has no effect on Windows."""
    if file.exists() and file.read_bytes() == content:
        return
    fresh = file.with_name(f"{file.name}.new")
    fresh.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(fresh, flags, mode), "wb") as new:
        new.write(content)
    fresh.replace(file)
