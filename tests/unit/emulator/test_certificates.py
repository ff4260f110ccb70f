"""Certificates: generated once, replaced when unusable, readable only by their owner, refused with a reason."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from servicebus_emulator.transport import certificates
from servicebus_emulator.transport.tls import CertificateFiles, server_tls
from servicebus_emulator.transport.tls_context import CertificateError, ServerTls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "certificates"


def certificate_for(tls: ServerTls, name: str, trusted: Path) -> x509.Certificate:
    """Return the certificate that a strict client receives for `name`. Raises `ssl.SSLError` if it rejects it."""
    client = ssl.create_default_context(cafile=trusted)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client_end, server_end = socket.socketpair()
    with client_end, server_end, ThreadPoolExecutor(1) as thread:
        answered = thread.submit(_answer, tls.context, server_end)
        with client.wrap_socket(client_end, server_hostname=name) as secured:
            received = secured.getpeercert(binary_form=True)
        answered.result()
    assert received is not None
    return x509.load_der_x509_certificate(received)


def _answer(context: ssl.SSLContext, connection: socket.socket) -> None:
    with connection, context.wrap_socket(connection, server_side=True) as secured:
        secured.recv(1)


def generated(folder: Path, host: str = "127.0.0.1") -> tuple[ServerTls, Path]:
    tls = server_tls(CertificateFiles(folder=folder), host)
    assert tls.ca_certificate is not None
    return tls, tls.ca_certificate


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", socket.gethostname(), "bus.test"])
def test_a_strict_client_that_trusts_the_authority_accepts_every_local_name(folder: Path, name: str) -> None:
    tls, authority = generated(folder, "bus.test")
    certificate_for(tls, name, authority)


def test_the_next_run_uses_the_same_certificates(folder: Path) -> None:
    first, authority = generated(folder)
    before = authority.read_bytes()
    second, _ = generated(folder)
    assert authority.read_bytes() == before
    assert certificate_for(first, "localhost", authority) == certificate_for(second, "localhost", authority)


def test_a_new_host_name_gets_a_new_certificate_of_the_same_authority(folder: Path) -> None:
    old, authority = generated(folder)
    before = authority.read_bytes()
    new, _ = generated(folder, "10.1.2.3")
    assert authority.read_bytes() == before
    certificate_for(new, "10.1.2.3", authority)
    with pytest.raises(ssl.SSLError, match="IP address mismatch"):
        certificate_for(old, "10.1.2.3", authority)


def test_a_certificate_that_expires_soon_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "datetime", _SlowClock)
    old, authority = generated(folder)
    before = authority.read_bytes()
    monkeypatch.undo()
    new, _ = generated(folder)
    assert authority.read_bytes() == before, "the authority lives ten years"
    left = certificate_for(new, "localhost", authority).not_valid_after_utc - datetime.now(UTC)
    assert (
        left
        > timedelta(days=300)
        > certificate_for(old, "localhost", authority).not_valid_after_utc - datetime.now(UTC)
    )


class _SlowClock(datetime):
    """A clock that is 350 days slow."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) - timedelta(days=350)


@pytest.mark.parametrize("file", ["ca-key.pem", "server-key.pem"])
@pytest.mark.parametrize("content", [b"", b"rubbish"])
def test_a_damaged_file_is_replaced(folder: Path, file: str, content: bytes) -> None:
    generated(folder)
    (folder / file).write_bytes(content)
    tls, authority = generated(folder)
    certificate_for(tls, "localhost", authority)


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no file modes")
def test_only_the_owner_may_read_private_keys(folder: Path) -> None:
    generated(folder)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.glob("*-key.pem")}
    assert modes == {"ca-key.pem": 0o600, "server-key.pem": 0o600}
    assert b"PRIVATE" not in (folder / "ca.pem").read_bytes()


def test_emulators_that_start_together_share_one_authority(folder: Path) -> None:
    together = threading.Barrier(4)

    def start() -> ServerTls:
        together.wait()
        return generated(folder)[0]

    with ThreadPoolExecutor(4) as threads:
        contexts = [start.result() for start in [threads.submit(start) for _ in range(4)]]
    for tls in contexts:
        certificate_for(tls, "localhost", folder / "ca.pem")


def test_a_certificate_supplied_by_the_user_is_served_unchanged(folder: Path) -> None:
    _, authority = generated(folder)
    pair = folder / "server-key.pem"
    tls = server_tls(CertificateFiles(certificate=pair, private_key=pair), "127.0.0.1")
    assert tls.ca_certificate is None
    assert certificate_for(tls, "localhost", authority) == x509.load_pem_x509_certificate(pair.read_bytes())


def test_unusable_certificate_files_are_refused_with_the_file_and_the_reason(folder: Path) -> None:
    generated(folder)
    key, other, missing = folder / "server-key.pem", folder / "ca-key.pem", folder / "missing.pem"
    cases = [
        (CertificateFiles(certificate=key), "go together"),
        (CertificateFiles(certificate=missing, private_key=key), r"missing\.pem: there is no such file"),
        (CertificateFiles(certificate=key, private_key=other), r"server-key\.pem with .*KEY_VALUES_MISMATCH"),
        (CertificateFiles(certificate=folder / "ca.pem", private_key=folder / "ca.pem"), "not a PEM certificate"),
        (CertificateFiles(folder=key), "cannot be kept"),
    ]
    for files, reason in cases:
        with pytest.raises(CertificateError, match=reason):
            server_tls(files, "127.0.0.1")
