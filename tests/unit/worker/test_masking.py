"""Secrets in the texts of flows and senders."""

from __future__ import annotations

import time

import pytest

from flow_worker.flows import platform
from flow_worker.flows.answer import decode_body
from flow_worker.masking import masked

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJvaWQiOiJhZGEifQ.c2lnbmF0dXJl"
SECRET = "hush-0123456789-hush"


@pytest.mark.parametrize(
    "text",
    [
        f"The token {JWT} is not valid.",
        f"cut off: {JWT[:25]}",
        f"Authorization: Bearer {SECRET}",
        f'"authorization": "Bearer {SECRET}"',
        f"authorization: Basic {SECRET}",
        f"The scheme was bearer {SECRET}.",
        f"https://x.logic.azure.com/workflows/{SECRET}/triggers/manual/paths/invoke",
        f"https://x.logic.azure.com/runs/1?sp=%2Fruns&sv=1.0&sig={SECRET}",
        f"HTTPS://X/?SIG={SECRET}",
        f"?code={SECRET}&sig={SECRET}".partition("&")[2],
        f"https://user:{SECRET}@host/",
        f"sp=read&sig={SECRET}",
        f"redirect=https%3A%2F%2Fx%2Fruns%3Fsp%3D%2Fsig%3D{SECRET}",
        f'{{"sig": "{SECRET}"}}',
        f"sig: {SECRET}",
        f"SharedAccessSignature sr=sb%3A%2F%2Fx&sig={SECRET}&se=1&skn=Root",
        f"Endpoint=sb://x/;SharedAccessKeyName=Root;SharedAccessKey={SECRET}",
        f"AccountName=a;AccountKey={SECRET}",
        f"client_secret={SECRET}",
        f'{{"access_token":"{SECRET}"}}',
        f"client_assertion={SECRET}",
        f"x-functions-key: {SECRET}",
        f"Set-Cookie: ARRAffinity={SECRET}; Path=/",
        f"cookie: a=1; session={SECRET}",
        f"password = {SECRET}",
    ],
)
def test_a_secret_is_masked(text: str) -> None:
    assert SECRET not in masked(text)
    assert JWT[:25] not in masked(text)
    assert "***" in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "The provided authorization token is not valid. It should have a valid header with 'Bearer' scheme.",
        "The flow's URL carries a signature beside the token: set its trigger to 'Specific users in my tenant'.",
        "Basic authentication is off. Bearer authentication is on.",
        "The token: expired. A key: missing.",
        "See https://learn.microsoft.com/power-automate/limits.",
        "Sigma = 4; design=3; a monkey: 7 years old",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert masked(text) == text


def test_an_error_is_masked_where_it_is_read_in_its_code_too() -> None:
    body = b'{"error": {"code": "Bad sig=%s", "message": "%s"}}' % (SECRET.encode(), JWT.encode())
    error = platform.read_error(decode_body(body, "application/json"))
    assert (error.code, error.message) == ("Bad sig=***", "***")


@pytest.mark.parametrize(
    "unit",
    ["a-", "eyJ", "sig", "https://", "bearer ", "key:", "token ", "authorization", "%2F", "cookie:", "a_token", "."],
)
def test_masking_takes_time_in_proportion_to_the_text(unit: str) -> None:
    started = time.process_time()
    masked("sig " + unit * (200_000 // len(unit)))
    assert time.process_time() - started < 2  # quadratic time would be minutes
