"""The checks of `doctor` that need no broker: tokens, the report's secrets, and faults of the checks themselves."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import cast

import httpx
import pytest
from rich.console import Console

from flow_contracts.servicebus import ServiceBusMisconfigured
from flow_worker.azure_identity import Tokens
from flow_worker.cli import doctor_render
from flow_worker.doctor import clocks, dataverse, flows, journal, network, queues, run, tokens
from flow_worker.doctor.causes import reason, with_proxy
from flow_worker.doctor.finding import Check, Finding, Outcome, Result
from flow_worker.doctor.hosts import Host, broker, has_administration, of_url
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.opening import open_file
from flow_worker.settings import FlowSettings, InvalidSettings, ServiceBusSettings

AUDIENCE = "https://service.flow.microsoft.com/"


class FakeTokens:
    def __init__(self, token: str | Exception) -> None:
        self._token = token

    async def token(self, *, fresh: bool = False) -> str:
        if isinstance(self._token, Exception):
            raise self._token
        return self._token


def jwt(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{body}.hush"


async def checked(token: str | Exception, audience: str = AUDIENCE) -> Result:
    return await tokens._check(cast(Tokens, FakeTokens(token)), audience)


async def test_a_token_shows_audience_expiry_and_object_id_and_never_itself() -> None:
    result = await checked(jwt(aud=AUDIENCE, oid="1234", exp=time.time() + 3630, iss="x"))
    assert (result.outcome, result.detail) == (Outcome.OK, f"aud {AUDIENCE}, oid 1234, expires in 60 min")


@pytest.mark.parametrize("found", [AUDIENCE.removesuffix("/"), "https://graph.microsoft.com", None, [AUDIENCE]])
async def test_a_flow_compares_the_audience_with_its_slash(found: object) -> None:
    result = await checked(jwt(aud=found, exp=time.time() + 60))
    assert (result.outcome, "another audience" in result.detail) == (Outcome.FAILED, True)


async def test_dataverse_ignores_a_slash_at_the_end() -> None:
    url = "https://contoso.crm4.dynamics.com"
    assert (await checked(jwt(aud=f"{url}/"), url)).outcome is Outcome.OK


async def test_an_expired_token_an_unreadable_one_and_none_are_told_apart() -> None:
    assert "has expired" in (await checked(jwt(aud=AUDIENCE, exp=time.time() - 60))).detail
    for opaque in ("opaque", "a.b.c", "a.W10.c", ""):
        assert (await checked(opaque)).outcome is Outcome.UNSEEN
    error = TemporarilyUnavailable("identity_unavailable", "the managed identity's token is unavailable (X)")
    result = await checked(error)
    assert (result.outcome, "identity.client_id" in result.remedy) == (Outcome.FAILED, True)


async def test_a_check_that_throws_or_hangs_is_a_fault_in_one_line() -> None:
    async def throws() -> Result:
        raise RuntimeError("first line\nsecond line")

    async def hangs() -> Result:
        await asyncio.Event().wait()
        raise AssertionError

    (thrown,) = await run._run(Check("s", "n", throws))
    assert (thrown.outcome, thrown.detail) == (Outcome.FAILED, "RuntimeError: first line")
    (late,) = await run._run(Check("s", "n", hangs, 0.01))
    assert (late.outcome, late.detail) == (Outcome.FAILED, "no answer within 0.01 s")


def test_no_secret_of_the_settings_reaches_the_report() -> None:
    secret = "Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=hush-hush-hush"
    settings = ServiceBusSettings.model_validate({"connection_string": secret})
    found = run._finding(
        Check("s", "n", lambda: asyncio.sleep(0, Result(Outcome.OK, ""))),
        Result(Outcome.FAILED, f"broken: {secret}", "use hush-hush-hush"),
        sorted(run._secrets(settings), key=len, reverse=True),
    )
    assert "hush" not in found.detail + found.remedy


@pytest.mark.parametrize(
    ("host", "outcome"),
    [
        ("prod-01.westeurope.logic.azure.com", Outcome.FAILED),
        ("PROD-01.WESTEUROPE.LOGIC.AZURE.COM", Outcome.FAILED),
        ("0.0.environment.api.powerplatform.com", Outcome.OK),
        ("prod-01.usgovvirginia.logic.azure.us", Outcome.OK),
    ],
)
async def test_legacy_hosts_of_the_public_cloud_are_named(host: str, outcome: Outcome) -> None:
    flow = FlowSettings.model_validate({"url": f"https://{host}/workflows/a", "role": "R"})
    assert (await flows._check(flow)).outcome is outcome


@pytest.mark.parametrize(
    ("ahead", "outcome"), [(0.0, Outcome.OK), (4.0, Outcome.OK), (30.0, Outcome.FAILED), (-30.0, Outcome.FAILED)]
)
async def test_a_clock_is_compared_with_the_date_of_an_answer(
    monkeypatch: pytest.MonkeyPatch, ahead: float, outcome: Outcome
) -> None:
    monkeypatch.setattr(clocks, "wall", lambda: 1_000_000_000.0 + ahead)
    answer = httpx.Response(401, headers={"date": "Sun, 09 Sep 2001 01:46:40 GMT"})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as client:
        assert (await clocks._check(client, "https://x.example/", "")).outcome is outcome


async def test_an_answer_without_a_usable_date_decides_nothing() -> None:
    for headers in ({}, {"date": "yesterday"}):
        answer = httpx.Response(200, headers=headers)
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _, a=answer: a)) as client:
            assert (await clocks._check(client, "https://x.example/", "")).outcome is Outcome.UNSEEN


def test_the_hosts_are_those_that_the_sdks_connect_to() -> None:
    assert broker(ServiceBusSettings(namespace="a.servicebus.windows.net")).address == "a.servicebus.windows.net:5671"
    development = "Endpoint=sb://127.0.0.1:5999;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
    local = broker(ServiceBusSettings.model_validate({"connection_string": development}))
    assert (local.address, local.tls) == ("127.0.0.1:5999", False)
    assert of_url("https://[::1]/x") == Host("::1", 443, tls=True)


EMULATOR = "Endpoint=sb://127.0.0.1;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"


def test_the_administration_of_an_emulator_is_never_guessed() -> None:
    assert has_administration(ServiceBusSettings(namespace="a.servicebus.windows.net"))
    emulator = {"connection_string": EMULATOR}
    assert not has_administration(ServiceBusSettings.model_validate(emulator))
    known = ServiceBusSettings.model_validate(emulator | {"administration_url": "http://127.0.0.1:5300"})
    assert has_administration(known)


@pytest.mark.parametrize(
    ("text", "by_key", "remedy"),
    [
        ("open: Service Bus refused the credential; InvalidSignature", True, "Copy the connection string again"),
        ("open: Service Bus refused the credential; 'Listen' claim(s) are required", True, "Assign the role 'R'"),
        ("open: Service Bus refused the credential; expired", False, "Assign the role 'R'"),
        ("open: not authorised; give the identity the role", True, "Assign the role 'R'"),
    ],
)
def test_a_refused_key_is_copied_again_and_a_missing_right_is_assigned(text: str, by_key: bool, remedy: str) -> None:
    result = queues._refused(ServiceBusMisconfigured(text), "R", "Listen", by_key=by_key)
    assert result.remedy.startswith(remedy)


async def test_a_stopped_emulator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error = TemporarilyUnavailable("identity_unavailable", "the managed identity's token is unavailable (X)")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}/token")
        assert "Assign the managed identity" in (await checked(error)).remedy, "it answers"
    result = await checked(error)
    assert ("refuses the connection" in result.detail, "Start the emulator" in result.remedy) == (True, True)


def test_dataverse_without_a_token_points_to_the_token() -> None:
    url = "https://contoso.crm4.dynamics.com"
    error = TemporarilyUnavailable("identity_unavailable", "no token")
    assert "See the line 'token: Dataverse" in dataverse._unavailable(error, url).remedy
    assert "application user" in dataverse._unavailable(TemporarilyUnavailable("x", "y"), url).remedy


@asynccontextmanager
async def proxy(answer: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", Outcome.OK, "through the proxy"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Outcome.FAILED, "refuses this user (407)"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", Outcome.FAILED, "(403)"),
        (b"<html>Sign in</html>\n", Outcome.FAILED, "no HTTP"),
        (b"", Outcome.FAILED, "no HTTP"),
    ],
)
async def test_the_proxy_that_refuses_is_named(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, outcome: Outcome, detail: str
) -> None:
    async with proxy(answer) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        result = await network._check(Host("contoso.example", 443, tls=True), httpx.create_ssl_context())
    assert (result.outcome, detail in result.detail) == (outcome, True), result
    assert f"http://127.0.0.1:{port}" in result.detail


async def test_a_dead_proxy_is_named_and_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("HTTPS_PROXY", url)
    result = await network._check(Host("contoso.example", 443, tls=True), httpx.create_ssl_context())
    assert (result.outcome, f"the proxy {url} cannot be used" in result.detail) == (Outcome.FAILED, True)
    assert url in with_proxy("Correct it.", "https://contoso.example/")
    assert url in run._unexpected()


def test_a_refused_connection_is_never_called_a_timeout() -> None:
    error = httpx.ConnectTimeout("x")
    assert reason(error) == "ConnectTimeout"
    error.__cause__ = ConnectionRefusedError(111, "refused")
    assert reason(error) == "the connection is refused"


@pytest.mark.parametrize(
    ("left", "text"), [(3630, "expires in 60 min"), (20, "expires in 20 s"), (-5, "expired 5 s ago")]
)
def test_an_expiry_is_a_number_with_a_sign_that_fits(left: float, text: str) -> None:
    assert tokens._expiry(left) == text


@pytest.mark.parametrize(
    ("name", "outcome", "detail"),
    [
        ("journal.sqlite3", Outcome.OK, "does not exist yet"),
        ("absent/deep/journal.sqlite3", Outcome.UNSEEN, "is the volume mounted?"),
        ("file/journal.sqlite3", Outcome.FAILED, "is no folder"),
        ("folder", Outcome.FAILED, "is no file"),
        ("empty", Outcome.UNSEEN, "has no journal yet"),
        ("other.sqlite3", Outcome.UNSEEN, "has no journal yet"),
        ("dangling", Outcome.FAILED, "which does not exist"),
        ("/proc/flow-worker/journal.sqlite3", Outcome.FAILED, "may not create it in /proc"),
    ],
)
def test_a_path_that_is_no_journal_yet_stays_as_it_is(tmp_path: Path, name: str, outcome: Outcome, detail: str) -> None:
    if name.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("this machine has no /proc")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with closing(sqlite3.connect(tmp_path / "other.sqlite3")) as other:
        other.execute("CREATE TABLE mine (a)")
    before = {path: path.lstat().st_size for path in tmp_path.rglob("*")}
    result = journal._unready(tmp_path / name)
    assert result is not None
    assert (result.outcome, detail in result.detail) == (outcome, True), result
    assert {path: path.lstat().st_size for path in tmp_path.rglob("*")} == before


def test_a_journal_that_may_not_be_written_is_not_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.sqlite3"
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(InvalidSettings, match="move a damaged file away"):
        open_file(path, busy_seconds=0.1, max_log_bytes=1 << 20, reserve_bytes=0)
    path.unlink()
    path.symlink_to(tmp_path / "absent" / "journal")
    with pytest.raises(InvalidSettings) as refusal:
        open_file(path, busy_seconds=0.1, max_log_bytes=1 << 20, reserve_bytes=0)
    assert "move" not in str(refusal.value)
    path.unlink()
    path.write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda *_: False)
    result = journal._unready(path)
    assert result is not None
    assert ("may not write the file" in result.detail, "move" in result.remedy) == (True, False)


async def test_a_finding_is_reported_before_slower_checks_end() -> None:
    reported = asyncio.Event()
    seen: list[Finding] = []

    async def waits() -> Result:
        await reported.wait()
        return Result(Outcome.FAILED, "second\nline")

    def report(finding: Finding) -> None:
        seen.append(finding)
        reported.set()

    checks = [Check("a", "quick", lambda: asyncio.sleep(0, Result(Outcome.OK, "first"))), Check("b", "slow", waits, 5)]
    assert await run._report_all(checks, [], report) == seen
    assert [finding.detail for finding in seen] == ["first", "second line"]


def test_a_line_wraps_at_words_on_a_terminal_and_is_one_line_elsewhere() -> None:
    finding = Finding("queue", "shape", Outcome.FAILED, "several words " * 12, "Correct the setting " * 5)
    for is_terminal in (True, False):
        stream = io.StringIO()
        console = Console(file=stream, width=80, force_terminal=is_terminal, no_color=True, _environ={})
        doctor_render.print_finding(console, finding)
        lines = stream.getvalue().splitlines()
        assert (len(lines) > 1) is is_terminal
        assert all(len(line) < 100 for line in lines) is is_terminal
        words = {word for line in lines for word in line.split()}
        assert {"several", "words", "setting"} <= words
        assert not {"sever", "wor", "sett"} & words


@pytest.mark.parametrize("expiry", [float("nan"), float("inf"), 10**400, "soon", None])
async def test_an_odd_expiry_is_no_fault_of_the_check(expiry: object) -> None:
    result = await checked(jwt(aud=AUDIENCE, oid="x" * 5000, exp=expiry))
    assert (result.outcome, "expires" in result.detail, len(result.detail) < 300) == (Outcome.OK, False, True)


@pytest.mark.parametrize("oid", ["ada", "", "../x", "{11111111-2222-3333-4444-555555555555}", "1" * 32])
def test_an_object_id_that_is_no_guid_is_not_queried(oid: str) -> None:
    assert not dataverse._is_guid(oid)
    assert dataverse._is_guid("B7A4E2D9-3f58-4c61-8e0b-2f9d6c1a7e33")
