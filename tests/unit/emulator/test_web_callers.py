"""Web callers: programs on this machine are answered; pages of other sites are not, whatever name leads to us."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from servicebus_emulator import config
from servicebus_emulator.transport.web_callers import WebCallers

CALLERS = WebCallers.parse(["emulator", "FD00::5"], ["http://localhost:3000", "https://App.Test"]).with_host("10.1.2.3")
OURS = "127.0.0.1:5380"


def refusal(*headers: tuple[str, str], scheme: str = "http", callers: WebCallers = CALLERS) -> str | None:
    return callers.refusal(CIMultiDict(headers), scheme)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:5380", "LOCALHOST.", "127.0.0.1", OURS, "127.8.9.1:1", "[::1]", "[::1]:5380"),
        *("emulator:5380", "Emulator", "10.1.2.3:80", "[fd00::5]:5380"),
    ],
)
def test_a_program_that_addresses_the_loopback_or_an_allowed_name_is_answered(host: str) -> None:
    assert refusal(("Host", host)) is None
    assert refusal(("Host", host), ("Origin", f"http://{host}")) is None
    assert refusal(("Host", host), ("Origin", f"https://{host}"), scheme="https") is None


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.test", "evil.test:5380", "localhost.evil.test", "127.0.0.1.evil.test", "evillocalhost"),
        *("emulators", "10.1.2.4", "[::]", "[fd00::6]", "2130706433", "127.1", "0x7f.0.0.1", "localhost:5380:80"),
        *("localhost@evil.test", "evil.test@localhost", "localhost/x", "localhost, evil.test", "localhost evil"),
        *("::1", "[::1", "[localhost]", "localhost:", "localhost:x", "localho\u017ft", "\uff4cocalhost", "localhost\0"),
    ],
)
def test_another_name_is_refused_with_the_remedy(host: str) -> None:
    assert "--allow-host" in str(refusal(("Host", host)))
    assert refusal(("Host", host), ("Origin", f"http://{host}")) is not None


def test_a_request_without_a_host_or_with_two_is_refused() -> None:
    assert refusal() is not None
    assert refusal(("Host", "localhost"), ("Host", "evil.test")) is not None
    assert refusal(("Host", "localhost"), ("Host", "localhost")) is not None


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://app.test", "https://app.test:443", f"http://{OURS}"]
)
def test_the_page_of_an_allowed_origin_is_answered(origin: str) -> None:
    assert refusal(("Host", OURS), ("Origin", origin), ("Sec-Fetch-Site", "cross-site")) is None


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "http://evil.test",
            "http://evil.test:5380",
            "null",
            "",
            "file://",
            "http://localhost:5380",
            "http://127.0.0.1",
        ),
        *("https://127.0.0.1:5380", "https://localhost:3000", "http://localhost:3000.evil.test", "http://app.test"),
        *(
            "http://localhost:3000/",
            "http://localhost:3000@evil.test",
            "chrome-extension://abc",
            "http://localhost:3001",
        ),
    ],
)
def test_the_page_of_another_origin_is_refused_with_the_remedy(origin: str) -> None:
    assert "--allow-origin" in str(refusal(("Host", OURS), ("Origin", origin)))
    assert refusal(("Host", OURS), ("Origin", "http://localhost:3000"), ("Origin", origin)) is not None


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_a_link_or_an_image_of_another_page_is_refused_although_it_has_no_origin(site: str) -> None:
    assert refusal(("Host", OURS), ("Sec-Fetch-Site", site)) is not None
    assert refusal(("Host", OURS), ("Sec-Fetch-Site", "none")) is None  # typed by the user
    assert refusal(("Host", OURS), ("Sec-Fetch-Site", "same-origin")) is None


@pytest.mark.parametrize(
    ("hosts", "origins", "reason"),
    [
        (["emulator:5380"], [], "--allow-host: 'emulator:5380' must be a name or an address without port"),
        (["*"], [], "--allow-host"),
        (["http://emulator"], [], "--allow-host"),
        ([""], [], "--allow-host"),
        ([], ["localhost:3000"], "--allow-origin: 'localhost:3000' must be scheme, host and port"),
        ([], ["*"], "--allow-origin"),
        ([], ["null"], "--allow-origin"),
        ([], ["http://localhost:3000/app"], "--allow-origin"),
    ],
)
def test_an_invalid_option_is_refused_with_the_reason(hosts: list[str], origins: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("*", r"\*")):
        WebCallers.parse(hosts, origins)


def test_the_managed_identity_has_no_secret_that_is_the_same_everywhere() -> None:
    assert config.load().http.identity.identity_header is None
