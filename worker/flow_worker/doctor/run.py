"""Runs all checks at the same time, each within its deadline, and keeps secrets out of what they found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import httpx
from pydantic import BaseModel, SecretStr

from flow_worker.access.build import build_access, build_identity
from flow_worker.doctor import (
    clocks,
    dataverse,
    deliveries,
    flows,
    gateway,
    gateway_process,
    issuers,
    journal,
    local,
    network,
    queues,
    statements,
    tokens,
)
from flow_worker.doctor.causes import proxy_of
from flow_worker.doctor.finding import Check, Finding, Outcome, Result
from flow_worker.flows.invoker import http_client
from flow_worker.masking import MASK, masked
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import InvalidSettings, Settings

_SECRET_PARTS = {"sharedaccesskey", "accountkey", "sharedaccesssignature"}
_MIN_SECRET_CHARACTERS = 8


async def examine(settings: Settings, report: Callable[[Finding], None] = lambda _: None) -> list[Finding]:
    """Return the findings in the order of the report. It raises for no fault of the installation.

    `report` gets each finding as soon as it and those before it are known.
    """
    try:
        return await _examine(settings, report)
    except (OSError, ValueError, InvalidSettings) as error:
        # The worker would not start either.
        detail = f"the clients of the services cannot be created: {type(error).__name__}: {error}"
        remedy = "Correct the variables of certificates (SSL_CERT_FILE, SSL_CERT_DIR) and proxies, and the settings."
        text = _without(detail, _sorted_secrets(settings))
        finding = Finding("environment", "clients", Outcome.FAILED, text, remedy)
        report(finding)
        return [finding]


async def _examine(settings: Settings, report: Callable[[Finding], None]) -> list[Finding]:
    async with AsyncExitStack() as stack:
        identity = await stack.enter_async_context(build_identity(settings))
        access = await stack.enter_async_context(build_access(settings, identity))
        bus = await stack.enter_async_context(
            open_service_bus(settings.servicebus, client_id=settings.identity.client_id)
        )
        client = await stack.enter_async_context(
            http_client(connect_seconds=settings.http.connect_seconds, max_connections=8, keepalive_seconds=15)
        )
        # A proxy would answer for this machine, or learn of its ports.
        nearby = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        checks = [
            *local.checks(settings, nearby),
            *network.checks(settings),
            *tokens.checks(settings, identity),
            *queues.checks(settings, bus),
            *statements.checks(settings),
            *gateway.checks(settings),
            *gateway_process.checks(settings, bus, nearby),
            *journal.checks(settings),
            *issuers.checks(settings, client),
            *dataverse.checks(settings, access, identity),
            *deliveries.checks(settings, access),
            *flows.checks(settings),
            *clocks.checks(settings, client, nearby),
        ]
        secrets = _sorted_secrets(settings)
        return await _report_all(checks, secrets, report)


async def _report_all(checks: list[Check], secrets: list[str], report: Callable[[Finding], None]) -> list[Finding]:
    found = []
    async with asyncio.TaskGroup() as group:
        running = [(check, group.create_task(_run(check))) for check in checks]
        for check, task in running:
            for result in await task:
                found.append(_finding(check, result, secrets))
                report(found[-1])
    return found


async def _run(check: Check) -> list[Result]:
    try:
        async with asyncio.timeout(check.seconds):
            results = await check.run()
    except TimeoutError:
        return [Result(Outcome.FAILED, f"no answer within {check.seconds:g} s", "Check the network between the two.")]
    except Exception as error:  # noqa: BLE001 - a report of the other checks is worth more than a traceback
        detail = f"{type(error).__name__}: {error}".splitlines()[0]
        return [Result(Outcome.FAILED, detail, _unexpected())]
    return results if isinstance(results, list) else [results]


def _unexpected() -> str:
    proxy = proxy_of("https://login.microsoftonline.com/")
    if proxy is None:
        return "If the cause is not clear from this text, report it as a bug."
    return f"The proxy {proxy.url} may have answered instead of the server. Correct HTTPS_PROXY or NO_PROXY."


def _finding(check: Check, result: Result, secrets: list[str]) -> Finding:
    detail, remedy = (_without(" ".join(text.split()), secrets) for text in (result.detail, result.remedy))
    return Finding(check.subject, result.aspect or check.name, result.outcome, detail, remedy)


def _without(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return masked(text) if any(hint in text.lower() for hint in ("eyj", "sharedaccess", "sig=")) else text


def _sorted_secrets(settings: Settings) -> list[str]:
    """Return the longest first: one can be a part of another."""
    return sorted(_secrets(settings), key=len, reverse=True)


def _secrets(model: BaseModel) -> Iterator[str]:
    """Yield every secret of the settings, and the values in its connection strings."""
    for _, value in model:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,):
            if isinstance(item, BaseModel):
                yield from _secrets(item)
            elif isinstance(item, SecretStr):
                yield from _parts(item.get_secret_value())


def _parts(secret: str) -> Iterator[str]:
    yield secret
    for part in secret.split(";"):
        name, _, value = part.partition("=")
        if name.strip().lower() in _SECRET_PARTS and len(value) >= _MIN_SECRET_CHARACTERS:
            yield value
