"""Inputs and claims in the forms that other tools write them: each is read, or named without a quote of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from flow_contracts.claim import clean_claim
from flow_contracts.request import RequestBody
from flow_worker.cli.inputs import UnusableInput, claim_of, decoded, read_file
from flow_worker.cli.request_commands import SenderError, parse_input

TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.c2ln_-"
DOCUMENT = {"customer": "M\u00fcller \u2713 \U0001f600"}


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_an_input_file_is_read_in_every_unicode_encoding(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "input.json"
    file.write_bytes(f"{json.dumps(DOCUMENT, ensure_ascii=False)}\r\n".encode(encoding))
    assert parse_input([], f"@{file}") == DOCUMENT


@pytest.mark.parametrize(
    ("data", "named"), [("M\u00fcller".encode("cp1252"), "not UTF-8, UTF-16 or UTF-32"), (b"\xff\xfea", "not UTF-16")]
)
def test_an_input_in_a_code_page_is_named(tmp_path: Path, data: bytes, named: str) -> None:
    file = tmp_path / "input.json"
    file.write_bytes(data)
    with pytest.raises(SenderError, match=rf"--input @.*input\.json is {named}.*save it as UTF-8"):
        parse_input([], f"@{file}")
    with pytest.raises(UnusableInput, match="absent cannot be read"):
        read_file(tmp_path / "absent")


COPIED = [
    f"{TOKEN}\r\n",
    f"\ufeff{TOKEN}\n",
    f"Bearer {TOKEN}",
    f"bearer  {TOKEN}\r",
    f"Authorization: Bearer {TOKEN}",
    f"AUTHORIZATION:bearer\t{TOKEN}",
    f'"{TOKEN}"\n',
    f"'Bearer {TOKEN}'",
    f" \t{TOKEN} ",
    f"{TOKEN}\0",
    TOKEN,
]


@pytest.mark.parametrize("copied", COPIED)
def test_a_claim_that_was_copied_with_more_is_taken_for_the_token(copied: str) -> None:
    assert claim_of(copied, "FLOW_WORKER_CLAIM") == TOKEN
    body = RequestBody(flow="f", claim=SecretStr(copied))
    assert body.claim is not None
    assert body.claim.get_secret_value() == TOKEN, "also for senders in other languages"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_claim_from_a_file_of_powershell_is_read(encoding: str) -> None:
    assert claim_of(decoded(f"{TOKEN}\r\n".encode(encoding), "stdin"), "stdin") == TOKEN


@pytest.mark.parametrize(
    ("text", "named"), [('{"accessToken": "secret"}', "holds JSON.*accessToken"), (f"{TOKEN}\n{TOKEN}", "white space")]
)
def test_a_claim_that_is_no_token_is_named_and_not_quoted(text: str, named: str) -> None:
    with pytest.raises(UnusableInput, match=f"FLOW_WORKER_CLAIM.*{named}") as refusal:
        claim_of(text, "FLOW_WORKER_CLAIM")
    assert "secret" not in str(refusal.value)
    assert TOKEN not in str(refusal.value)


@pytest.mark.parametrize("empty", ["Bearer ", "bearer", " \r\n", '""'])
def test_a_claim_without_a_token_is_refused(empty: str) -> None:
    assert clean_claim(empty) == ""
    with pytest.raises(ValidationError, match="has no token"):
        RequestBody(flow="f", claim=SecretStr(empty))


def test_a_hostile_claim_costs_no_more_than_its_length() -> None:
    assert clean_claim("Bearer " + " " * 60_000 + "x" + " " * 5_000 + "y") != ""
