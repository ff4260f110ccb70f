"""The proxy of a URL follows from the environment by the rules of curl."""

from __future__ import annotations

import pytest

from flow_contracts.proxies import InvalidProxy, Proxies

BOTH = {"HTTPS_PROXY": "http://secure.example:8080", "HTTP_PROXY": "http://plain.example:3128"}


def proxy_of(url: str, **environment: str) -> str | None:
    proxy = Proxies(environment).proxy_of(url)
    return None if proxy is None else proxy.url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x?y", "http://secure.example:8080"),
        ("wss://a.example:443/$servicebus/websocket", "http://secure.example:8080"),
        ("http://a.example", "http://plain.example:3128"),
        ("ws://a.example", "http://plain.example:3128"),
        ("http://169.254.169.254/metadata/identity/oauth2/token", None),
        ("ftp://a.example", None),
    ],
)
def test_the_scheme_decides(url: str, expected: str | None) -> None:
    assert proxy_of(url, **BOTH) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"https_proxy": "http://lower.example:1"}, "http://lower.example:1"),
        ({"https_proxy": "http://lower.example:1", **BOTH}, "http://lower.example:1"),
        ({"https_proxy": "", **BOTH}, None),
        ({"ALL_PROXY": "http://all.example:2"}, "http://all.example:2"),
        ({"all_proxy": "all.example:2"}, "http://all.example:2"),
        ({"ALL_PROXY": "http://all.example:2", **BOTH}, "http://secure.example:8080"),
        ({"ALL_PROXY": "socks5://ignored.example:2", **BOTH}, "http://secure.example:8080"),
        ({"HTTPS_PROXY": "https://tls.example"}, "https://tls.example:443"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128"}, "http://[fd00::1]:3128"),
        ({"HTTP_PROXY": "http://plain.example:3128"}, None),
    ],
)
def test_lower_case_overrides_capitals_and_all_proxy_is_the_default(
    environment: dict[str, str], expected: str | None
) -> None:
    assert proxy_of("https://a.example", **environment) == expected


def test_a_client_of_a_cgi_program_names_no_proxy() -> None:
    assert proxy_of("http://a.example", REQUEST_METHOD="GET", HTTP_PROXY="http://evil.example") is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("*", "https://a.example", True),
        ("a.example", "https://a.example", True),
        ("a.example", "https://b.a.example:8443", True),
        ("A.EXAMPLE", "https://a.Example.", True),
        (".a.example", "https://b.a.example", True),
        ("*.a.example", "https://b.a.example", True),
        ("a.example", "https://ba.example", False),
        ("a.example:8443", "https://a.example:8443", True),
        ("a.example:8443", "https://a.example", False),
        ("b.example, a.example", "https://a.example", True),
        ("b.example a.example", "https://a.example", True),
        ("localhost,127.0.0.1", "http://127.0.0.1:5000/x", True),
        ("10.0.0.0/8", "https://10.20.30.40", True),
        ("10.0.0.0/8", "https://11.20.30.40", False),
        ("10.0.0.0/8", "https://a.example", False),
        ("10.0.0.1/8", "https://10.20.30.40", True),
        ("10.0.0.1:443", "https://10.0.0.1", True),
        ("fd00::/8", "https://[fd12::1]", True),
        ("[fd00::1]:8443", "https://[fd00::1]:8443", True),
        ("[fd00::1]", "https://[fd00::2]", False),
        ("::1", "http://[::1]:80", True),
        ("", "https://a.example", False),
        (",", "https://a.example", False),
        (".", "https://a.example", False),
        ("bücher.example", "https://xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "https://BÜCHER.example", True),
        (".BÜCHER.example:8443", "https://a.xn--bcher-kva.example:8443", True),
        ("straße.example", "https://xn--strae-oqa.example", True),
        ("bu\u0308cher\u3002example", "https://xn--bcher-kva.example", True),
        ("bücher.example", "https://xn--bcher-kvb.example", False),
        ("xn--\u00fc.example", "https://xn--zzzzzzzzzz.example", False),
    ],
)
def test_no_proxy_names_domains_addresses_ranges_and_ports(no_proxy: str, url: str, is_direct: bool) -> None:
    assert (proxy_of(url, NO_PROXY=no_proxy, **BOTH) is None) is is_direct
    assert (proxy_of(url, no_proxy=no_proxy, **BOTH) is None) is is_direct


def test_the_password_is_decoded_and_shown_nowhere() -> None:
    proxy = Proxies({"HTTPS_PROXY": "http://ada:h%40sh%3A@proxy.example:3128"}).proxy_of("https://a.example")
    assert proxy is not None
    assert (proxy.url, proxy.user, proxy.password) == ("http://proxy.example:3128", "ada", "h@sh:")
    assert "sh" not in repr(proxy)
    assert "ada" not in repr(proxy)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("HTTPS_PROXY", "socks5://hush@proxy.example", "'socks5' is not supported"),
        ("ALL_PROXY", "socks5h://hush@proxy.example", "'socks5h' is not supported"),
        ("http_proxy", "http://ada:hush/x@proxy.example:99999", "not the URL of a proxy"),
        ("HTTP_PROXY", "http://", "not the URL of a proxy"),
        ("HTTPS_PROXY", "http://ada:hush@proxy.example:0", "port 0"),
        ("ALL_PROXY", "proxy.example:0", "port 0"),
        ("HTTP_PROXY", "http://ada:hush@[proxy", "not the URL of a proxy"),
    ],
)
def test_an_unusable_proxy_is_named_by_its_variable_alone(variable: str, value: str, expected: str) -> None:
    with pytest.raises(InvalidProxy, match=expected) as refusal:
        Proxies({variable: value})
    assert str(refusal.value).startswith(f"{variable}: ")
    assert "hush" not in str(refusal.value)
