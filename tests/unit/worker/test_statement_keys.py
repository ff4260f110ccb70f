"""The keys of the statements: the forms that people hold keys in, first start, rotation and withdrawal."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm
from pydantic import SecretStr, ValidationError

from flow_worker.access import key_file, statement_key_files
from flow_worker.access.statement_key_files import PublicKeys, find_public_keys, open_signing_key
from flow_worker.access.statement_keys import (
    BadKey,
    new_signing_key,
    parse_public_keys,
    parse_signing_key,
    private_pem,
    public_jwks,
)
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import InvalidSettings, StatementSettings

KEY, OTHER = new_signing_key(), new_signing_key()
PEM = private_pem(KEY).decode()
PUBLIC_PEM = KEY.verifying.public.public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
).decode()
SEC1 = KEY.private.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
).decode()
PUBLIC_JWK: dict[str, Any] = json.loads(public_jwks([KEY.verifying]))["keys"][0]
JWK: dict[str, Any] = json.loads(ECAlgorithm.to_jwk(KEY.private))


def rsa_pem() -> str:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def other_curve(public: bool = False) -> str:
    key = ec.generate_private_key(ec.SECP384R1())
    if public:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def encrypted() -> str:
    form, locked = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password")
    return KEY.private.private_bytes(serialization.Encoding.PEM, form, locked).decode()


# --- the forms of keys ---------------------------------------------------------------------------------------------

PRIVATE = {
    "PKCS #8": PEM,
    "SEC 1": SEC1,
    "CR LF": PEM.replace("\n", "\r\n"),
    "one line of a variable": PEM.replace("\n", "\\n"),
    "white space around": f"\n  {PEM}\n\n",
    "a byte order mark": f"\ufeff{PEM}",
    "JWK": json.dumps(JWK),
    "JWK with the ID of another program": json.dumps(JWK | {"kid": "vault/keys/1", "use": "sig", "alg": "ES256"}),
}


@pytest.mark.parametrize("form", PRIVATE)
def test_a_private_key_in_each_usual_form_is_the_same_key(form: str) -> None:
    assert parse_signing_key(PRIVATE[form]).kid == KEY.kid


NOT_PRIVATE = {
    "nothing": "",
    "words": "secret",
    "the public key": PUBLIC_PEM,
    "RSA": rsa_pem(),
    "another curve": other_curve(),
    "a password": encrypted(),
    "a cut PEM": PEM[: len(PEM) // 2],
    "a JWK without d": json.dumps(PUBLIC_JWK),
    "a JWK with d of another curve": json.dumps(JWK | {"crv": "P-384"}),
    "a JWK of another type": json.dumps({"kty": "oct", "k": "AAAA"}),
    "a JWK for encryption": json.dumps(JWK | {"use": "enc"}),
    "a list": "[]",
    "a JWK twice": json.dumps(JWK) * 2,
    "duplicate members": json.dumps(JWK)[:-1] + ', "d": "AAAA"}',
    "huge": PEM + "A" * 100_000,
}


@pytest.mark.parametrize("form", NOT_PRIVATE)
def test_a_text_without_a_usable_private_key_is_refused_and_not_quoted(form: str) -> None:
    with pytest.raises(BadKey) as refused:
        parse_signing_key(NOT_PRIVATE[form])
    assert JWK["d"] not in str(refused.value)


PUBLIC = {
    "PEM": PUBLIC_PEM,
    "one line of a variable": PUBLIC_PEM.replace("\n", "\\n"),
    "JWK Set": json.dumps({"keys": [PUBLIC_JWK]}),
    "JWK": json.dumps(PUBLIC_JWK),
    "JWK with another ID": json.dumps(PUBLIC_JWK | {"kid": "x"}),
    "JWK without an ID": json.dumps({name: PUBLIC_JWK[name] for name in ("kty", "crv", "x", "y")}),
}


@pytest.mark.parametrize("form", PUBLIC)
def test_a_public_key_in_each_usual_form_is_the_same_key(form: str) -> None:
    assert list(parse_public_keys(PUBLIC[form])) == [KEY.kid]


def test_several_public_keys_count_during_a_rotation() -> None:
    both = public_jwks([KEY.verifying, OTHER.verifying]).decode()
    assert list(parse_public_keys(both)) == [KEY.kid, OTHER.kid]
    other_pem = OTHER.verifying.public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    assert list(parse_public_keys(f"{PUBLIC_PEM}\n# the next one\n{other_pem}")) == [KEY.kid, OTHER.kid]


NOT_PUBLIC = {
    "nothing": "",
    "words": "key",
    "the private key": PEM,
    "a private JWK": json.dumps({"keys": [JWK]}),
    "no keys": json.dumps({"keys": []}),
    "a null key": json.dumps({"keys": [None]}),
    "keys as an object": json.dumps({"keys": {}}),
    "another curve": other_curve(public=True),
    "a point off the curve": json.dumps(PUBLIC_JWK | {"y": PUBLIC_JWK["x"]}),
    "a number as coordinate": json.dumps(PUBLIC_JWK | {"x": 1}),
    "HMAC": json.dumps({"keys": [{"kty": "oct", "k": "AAAA", "kid": KEY.kid}]}),
    "RSA": json.dumps({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}),
    "one good and one bad": json.dumps({"keys": [PUBLIC_JWK, {"kty": "EC"}]}),
    "hundreds": json.dumps({"keys": [PUBLIC_JWK] * 200}),
}


@pytest.mark.parametrize("form", NOT_PUBLIC)
def test_a_text_without_usable_public_keys_is_refused_and_not_quoted(form: str) -> None:
    with pytest.raises(BadKey) as refused:
        parse_public_keys(NOT_PUBLIC[form])
    assert JWK["d"] not in str(refused.value)


def test_the_key_id_is_the_thumbprint_of_rfc_7638() -> None:
    members = {name: PUBLIC_JWK[name] for name in ("crv", "kty", "x", "y")}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    digest = hashlib.sha256(text.encode()).digest()
    assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == KEY.kid


# --- the gateway's first start -------------------------------------------------------------------------------------


def settings(folder: Path, **changes: Any) -> StatementSettings:
    return StatementSettings(key_path=folder / "gateway" / "key.pem", **changes)


async def test_the_gateway_makes_its_key_and_the_worker_beside_it_finds_the_public_half(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    key = await open_signing_key(chosen)

    assert (await open_signing_key(chosen)).kid == key.kid
    assert list(find_public_keys(chosen)) == [key.kid]
    assert "d" not in json.loads(chosen.public_path.read_text())["keys"][0]
    assert sorted(path.name for path in chosen.key_path.parent.iterdir()) == ["key.pem", "key.pem.public.json"]
    if os.name == "posix":
        assert stat.S_IMODE(chosen.key_path.stat().st_mode) == 0o600
        assert stat.S_IMODE(chosen.public_path.stat().st_mode) & 0o022 == 0


@pytest.mark.skipif(os.name != "posix", reason="modes")
async def test_a_restored_key_is_closed_to_other_users_again(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    await open_signing_key(chosen)
    chosen.key_path.chmod(0o644)
    await open_signing_key(chosen)
    assert stat.S_IMODE(chosen.key_path.stat().st_mode) == 0o600


async def test_replicas_that_start_together_have_one_key(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    keys = await asyncio.gather(*(open_signing_key(chosen) for _ in range(12)))
    assert len({key.kid for key in keys}) == 1
    assert list(find_public_keys(chosen)) == [keys[0].kid]


async def test_a_new_key_keeps_the_earlier_public_ones_for_messages_under_way(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    kids = []
    for _ in range(6):
        kids.append((await open_signing_key(chosen)).kid)
        chosen.key_path.unlink()
    kept = list(find_public_keys(chosen))
    assert kept == kids[:-5:-1]


async def test_a_new_key_says_which_earlier_ones_the_workers_still_accept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new key withdraws no stolen one."""
    chosen = settings(tmp_path)
    first = await open_signing_key(chosen)
    await open_signing_key(chosen)  # a restart
    assert "statements.key_replaced" not in [getattr(each, "event", "") for each in caplog.records]
    chosen.key_path.unlink()
    await open_signing_key(chosen)
    said = [each for each in caplog.records if getattr(each, "event", "") == "statements.key_replaced"]
    assert [each.levelname for each in said] == ["WARNING"]
    assert first.kid in said[0].getMessage()
    assert str(chosen.public_path.absolute()) in said[0].getMessage()


@pytest.mark.parametrize("found", [b"", b"{", b"no keys", b"\xff\xfe"])
async def test_a_damaged_file_of_public_keys_is_written_anew(tmp_path: Path, found: bytes) -> None:
    chosen = settings(tmp_path)
    key = await open_signing_key(chosen)
    chosen.public_path.write_bytes(found)
    await open_signing_key(chosen)
    assert list(find_public_keys(chosen)) == [key.kid]


async def test_a_deleted_file_of_public_keys_is_written_anew(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    key = await open_signing_key(chosen)
    chosen.public_path.unlink()
    await open_signing_key(chosen)
    assert list(find_public_keys(chosen)) == [key.kid]


async def test_a_key_of_the_settings_comes_from_there_and_no_file_is_written(tmp_path: Path) -> None:
    file = tmp_path / "mounted.pem"
    file.write_text(PEM)
    for chosen in (settings(tmp_path, signing_key=SecretStr(PEM)), settings(tmp_path, signing_key_file=file)):
        assert (await open_signing_key(chosen)).kid == KEY.kid
        assert not chosen.key_path.parent.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signing_key": SecretStr("x")}, "statements.signing_key: the key in the value is no private key"),
        ({"signing_key_file": Path("nowhere.pem")}, "statements.signing_key_file: 'nowhere.pem' cannot be read"),
        ({"signing_key_file": Path(__file__)}, "statements.signing_key_file: the key in"),
    ],
)
async def test_an_unusable_key_stops_the_gateway_with_its_setting(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        await open_signing_key(settings(tmp_path, **changes))


async def test_a_folder_that_cannot_be_made_stops_the_gateway_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "gateway").write_text("a file")
    with pytest.raises(InvalidSettings, match=r"statements\.key_path: .* cannot be"):
        await open_signing_key(settings(tmp_path))


async def test_a_full_disk_makes_the_gateway_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create, refusals = key_file.create, [OSError(28, "No space left on device")]

    def full_at_first(file: Path, content: bytes) -> None:
        if refusals:
            raise refusals.pop()
        create(file, content)

    monkeypatch.setattr(statement_key_files, "_RETRY_SECONDS", 0)
    monkeypatch.setattr(key_file, "create", full_at_first)
    await open_signing_key(settings(tmp_path))
    assert not refusals


@pytest.mark.parametrize("name", ["signing_key", "public_keys"])
def test_a_key_in_two_places_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} and {name}_file are both set"):
        StatementSettings.model_validate({name: "x", f"{name}_file": "y"})


def test_a_file_that_another_process_reads_on_windows_is_replaced_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, refusals = Path.replace, [PermissionError(13, "in use")] * 3

    def refused_at_first(self: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return replace(self, target)

    monkeypatch.setattr(key_file, "_RENAME_PAUSE_SECONDS", 0)
    monkeypatch.setattr(Path, "replace", refused_at_first)
    with pytest.raises(PermissionError):
        key_file.replace(tmp_path / "keys", b"1", 0o644)
    assert not list(tmp_path.iterdir()), "nothing stays beside it"
    monkeypatch.setattr(os, "name", "nt")
    key_file.replace(tmp_path / "keys", b"2", 0o644)
    monkeypatch.undo()
    assert (tmp_path / "keys").read_bytes() == b"2"


# --- the worker's public keys --------------------------------------------------------------------------------------


class Clock:
    """A monotonic clock that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def waits(keys: PublicKeys, kid: str) -> bool:
    with pytest.raises(TemporarilyUnavailable) as outage:
        await keys.find(kid)
    return outage.value.code == "statement_keys_unavailable"


async def test_keys_of_the_settings_need_no_file() -> None:
    keys = PublicKeys(StatementSettings(public_keys=PUBLIC_PEM))
    assert await keys.find(KEY.kid) is not None
    assert await keys.find(OTHER.kid) is None


@pytest.mark.parametrize("place", ["settings", "file"])
async def test_an_unknown_key_is_logged_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    file, clock = tmp_path / "keys.json", Clock()
    file.write_bytes(public_jwks([KEY.verifying]))
    in_settings, in_file = StatementSettings(public_keys=PUBLIC_PEM), StatementSettings(public_keys_file=file)
    keys = PublicKeys(in_settings if place == "settings" else in_file, clock)
    assert await keys.find(KEY.kid) is not None
    for _ in range(3):
        assert await keys.find(OTHER.kid) is None
    clock.seconds = 61
    assert await keys.find(OTHER.kid) is None
    said = [each for each in caplog.records if getattr(each, "event", "") == "statements.key_unknown"]
    assert [(each.levelname, getattr(each, "fields", {})) for each in said] == [("WARNING", {"key": OTHER.kid})] * 2


async def test_settings_with_the_private_key_alone_are_those_of_both_sides(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(PEM)
    for chosen in (StatementSettings(signing_key=SecretStr(PEM)), StatementSettings(signing_key_file=file)):
        keys = PublicKeys(chosen)
        assert await keys.find(KEY.kid) is not None
        assert await keys.find(OTHER.kid) is None
    public = tmp_path / "public.json"
    public.write_bytes(public_jwks([OTHER.verifying]))
    keys = PublicKeys(StatementSettings(signing_key=SecretStr(PEM), public_keys_file=public))
    assert await keys.find(KEY.kid) is None, "the named public keys count"


def test_an_unusable_key_of_the_settings_stops_the_worker() -> None:
    with pytest.raises(InvalidSettings, match=r"statements\.public_keys: the key in the value"):
        PublicKeys(StatementSettings(public_keys="a key"))


@pytest.mark.parametrize("text", [PEM, SEC1, json.dumps({"keys": [JWK]}), json.dumps(JWK, indent=2)])
def test_a_private_key_in_the_place_of_the_public_ones_is_refused_before_it_is_printed(text: str) -> None:
    with pytest.raises(ValidationError, match="holds a private key") as refused:
        StatementSettings(public_keys=text)
    assert JWK["d"] not in str(refused.value)


async def test_requests_wait_until_the_gateway_has_made_its_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(tmp_path)
    keys = PublicKeys(chosen)
    assert await waits(keys, KEY.kid)
    assert await waits(keys, KEY.kid)
    assert [getattr(each, "event", "") for each in caplog.records].count("statements.keys_unavailable") == 1
    key = await open_signing_key(chosen)
    assert await keys.find(key.kid) is not None
    assert await keys.find(KEY.kid) is None


async def test_a_new_key_counts_at_its_first_use_and_an_invented_one_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(public_jwks([KEY.verifying]))
    keys = PublicKeys(StatementSettings(public_keys_file=file))
    assert await keys.find(KEY.kid) is not None
    reads: list[object] = []
    read = statement_key_files.find_public_keys

    def counted(chosen: StatementSettings) -> object:
        reads.append(chosen)
        return read(chosen)

    monkeypatch.setattr(statement_key_files, "find_public_keys", counted)

    for number in range(20):
        assert await keys.find(f"invented {number}") is None
    assert not reads
    key_file.replace(file, public_jwks([KEY.verifying, OTHER.verifying]), 0o644)
    assert await keys.find(OTHER.kid) is not None
    assert len(reads) == 1


async def test_a_withdrawn_key_counts_no_longer_than_the_refresh(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys.json", Clock()
    file.write_bytes(public_jwks([KEY.verifying, OTHER.verifying]))
    keys = PublicKeys(StatementSettings(public_keys_file=file, refresh_seconds=30), clock)
    assert await keys.find(OTHER.kid) is not None
    key_file.replace(file, public_jwks([KEY.verifying]), 0o644)
    clock.seconds = 29
    assert await keys.find(OTHER.kid) is not None
    clock.seconds = 31
    assert await keys.find(OTHER.kid) is None
    assert await keys.find(KEY.kid) is not None


@pytest.mark.parametrize("content", [None, b"", b"{", PEM.encode()])
async def test_a_file_that_becomes_unreadable_makes_all_requests_wait_until_it_is_back(
    tmp_path: Path, content: bytes | None
) -> None:
    file, clock = tmp_path / "keys.json", Clock()
    file.write_bytes(public_jwks([KEY.verifying]))
    keys = PublicKeys(StatementSettings(public_keys_file=file), clock)
    assert await keys.find(KEY.kid) is not None
    file.unlink() if content is None else file.write_bytes(content)
    clock.seconds = 31
    assert await waits(keys, KEY.kid)
    assert await waits(keys, OTHER.kid)
    file.write_bytes(public_jwks([KEY.verifying]))
    assert await keys.find(KEY.kid) is not None


async def test_a_cancelled_check_counts_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane gives up a proof that waits. The next request must not be refused for the key that was not read yet."""
    file = tmp_path / "keys.json"
    file.write_bytes(public_jwks([KEY.verifying]))
    keys = PublicKeys(StatementSettings(public_keys_file=file))
    assert await keys.find(KEY.kid) is not None
    began: asyncio.Queue[threading.Event] = asyncio.Queue()
    loop, stamp = asyncio.get_running_loop(), statement_key_files._stamp

    def held(path: Path) -> object:
        found, release = stamp(path), threading.Event()
        loop.call_soon_threadsafe(began.put_nowait, release)
        release.wait(5)
        return found

    monkeypatch.setattr(statement_key_files, "_stamp", held)
    early = asyncio.ensure_future(keys.find("invented"))
    first_check = await began.get()
    key_file.replace(file, public_jwks([KEY.verifying, OTHER.verifying]), 0o644)
    cancelled, waiting = (asyncio.ensure_future(keys.find(OTHER.kid)) for _ in range(2))
    await asyncio.sleep(0)
    first_check.set()
    second_check = await began.get()
    cancelled.cancel()
    second_check.set()
    (await began.get()).set()
    assert await waiting is not None
    assert await early is None


async def test_concurrent_requests_share_one_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(public_jwks([KEY.verifying]))
    stamps: list[object] = []
    stamp = statement_key_files._stamp

    def counted(path: Path) -> object:
        stamps.append(path)
        return stamp(path)

    monkeypatch.setattr(statement_key_files, "_stamp", counted)
    keys = PublicKeys(StatementSettings(public_keys_file=file))
    found = await asyncio.gather(*(keys.find(KEY.kid) for _ in range(50)))
    assert all(key is not None for key in found)
    assert len(stamps) < 5
