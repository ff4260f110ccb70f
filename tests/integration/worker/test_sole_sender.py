"""Who else may send to the continuation queue, as Service Bus's administration tells it (ATOM over TLS)."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from worker.servicebus import ServiceBus
from worker.settings import InvalidSettings, ServiceBusSettings
from worker.sole_sender import require_sole_sender

QUEUE = "flow-continuations"
RULE = """<AuthorizationRule i:type="SharedAccessAuthorizationRule"><ClaimType>SharedAccessKey</ClaimType>
<ClaimValue>None</ClaimValue><Rights>{rights}</Rights><CreatedTime>2026-01-01T00:00:00Z</CreatedTime>
<ModifiedTime>2026-01-01T00:00:00Z</ModifiedTime><KeyName>{name}</KeyName><PrimaryKey>cA==</PrimaryKey>
<SecondaryKey>cA==</SecondaryKey></AuthorizationRule>"""
ENTRY = """<entry xmlns="http://www.w3.org/2005/Atom"><title type="text">flow-continuations</title>
<content type="application/xml"><QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><LockDuration>PT5M</LockDuration>
<AuthorizationRules>{rules}</AuthorizationRules><Status>Active</Status></QueueDescription></content></entry>"""


def rules(**policies: str) -> str:
    """The queue's description: each policy and its rights, separated by blanks."""
    return ENTRY.format(
        rules="".join(
            RULE.format(name=name, rights="".join(f"<AccessRights>{right}</AccessRights>" for right in rights.split()))
            for name, rights in policies.items()
        )
    )


def certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "administration.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


@asynccontextmanager
async def administration(pem: Path, text: str, status: int = 200) -> AsyncIterator[int]:
    """The administration of a namespace that gives one answer; its port."""
    asked: list[str] = []

    async def entity(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, text=text, content_type="application/xml")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    application = web.Application()
    application.router.add_get("/{entity}", entity)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
        assert asked[0] == f"/{QUEUE}"
    finally:
        await runner.cleanup()


@pytest.fixture
def pem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = certificate(tmp_path)
    # aiohttp reads the machine's trusted certificates once, when it is imported; for this test ours is one of them.
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=path))
    return path


def bus(port: int) -> ServiceBus:
    text = f"Endpoint=sb://127.0.0.1:{port}/;SharedAccessKeyName=worker;SharedAccessKey=c2VjcmV0"
    return ServiceBus(ServiceBusSettings(connection_string=SecretStr(text), open_seconds=5))


async def test_a_policy_that_others_may_send_by_stops_the_worker_with_its_name(pem: Path) -> None:
    answer = rules(worker="Send Listen", reader="Listen", portal="Send")
    async with administration(pem, answer) as port, bus(port) as one:
        with pytest.raises(InvalidSettings, match=r"\(portal\).*take their Send and Manage rights away"):
            await require_sole_sender(one, QUEUE, "where-readable")


async def test_a_queue_of_the_workers_own_is_fine(pem: Path) -> None:
    answer = rules(worker="Send Listen Manage", reader="Listen")
    async with administration(pem, answer) as port, bus(port) as one:
        await require_sole_sender(one, QUEUE, "required")


async def test_rights_that_may_not_be_read_are_trusted_unless_they_are_required(pem: Path) -> None:
    async with administration(pem, "no Manage", 401) as port, bus(port) as one:
        await require_sole_sender(one, QUEUE, "where-readable")
        with pytest.raises(InvalidSettings, match="cannot be read"):
            await require_sole_sender(one, QUEUE, "required")
