"""The worker's token goes to the flow's own workflow, and status URLs are read by one grammar."""

from __future__ import annotations

import pytest

from flow_worker.flows.status_url import PollAccess, StatusHosts, resolve

HOST = "https://x.environment.api.powerplatform.com"
WORKFLOW = "/powerautomate/automations/direct/workflows/4f"
FLOW_URL = f"{HOST}:443{WORKFLOW}/triggers/manual/paths/invoke?api-version=1"
RUN = f"{HOST}{WORKFLOW}/runs/1/operations/2?api-version=1"
HOSTS = StatusHosts(("*.environment.api.powerplatform.com", "*.logic.azure.com"), {"127.0.0.1:5080", "Box:5081"})


@pytest.mark.parametrize("url", [RUN, RUN.replace(HOST, HOST + ":443"), RUN.upper().replace("HTTPS", "https")])
def test_a_run_of_the_flows_own_workflow_is_polled_with_the_token(url: str) -> None:
    assert HOSTS.access(url, FLOW_URL) is PollAccess.WITH_TOKEN


@pytest.mark.parametrize(
    "url",
    [
        RUN.replace("/4f/", "/5a/"),
        RUN.replace("/4f/", "/4f5/"),
        f"{HOST}/collect",
        f"{HOST}{WORKFLOW}",
        FLOW_URL,
        f"{HOST}{WORKFLOW}/Triggers/manual/run",
        f"{HOST}{WORKFLOW}//triggers/manual/run",
        f"{HOST}{WORKFLOW}//runs/1",
        f"{HOST}{WORKFLOW}/runs//1",
        f"{HOST}{WORKFLOW}/versions/1/triggers/manual/run",
        f"{HOST}{WORKFLOW}/runs/1/TRIGGERS",
        f"{HOST}{WORKFLOW}/%74riggers/manual/run",
        f"{HOST}{WORKFLOW}/runs/trigger%53/manual/run",
        f"{HOST}{WORKFLOW}/;a=b/triggers;a=b/manual",
        f"{HOST}{WORKFLOW}/%20triggers%20/manual",
        RUN.replace("//x.", "//y."),
        "https://evil.logic.azure.com/workflows/4f/runs/1",
        f"http://127.0.0.1:5080{WORKFLOW}/runs/1",
    ],
)
def test_any_other_url_is_polled_without_the_token_and_only_if_it_is_signed(url: str) -> None:
    assert HOSTS.access(url, FLOW_URL) is PollAccess.NOT_SIGNED
    assert HOSTS.access(f"{url}{'&' if '?' in url else '?'}sig=a", FLOW_URL) is PollAccess.SIGNED


def test_a_signed_run_of_the_own_workflow_gets_no_token_beside_its_signature() -> None:
    assert HOSTS.access(RUN + "&sig=a", FLOW_URL) is PollAccess.SIGNED


@pytest.mark.parametrize(
    "url",
    [
        f"{HOST}:8443{WORKFLOW}/runs/1?sig=a",
        f"{HOST}:0{WORKFLOW}/runs/1?sig=a",
        f"{HOST}:65536{WORKFLOW}/runs/1?sig=a",
        "https://evil.example/?sig=a",
        "http://x.logic.azure.com/?sig=a",
        "http://127.0.0.1:5082/?sig=a",
        "https://127.0.0.1:5080/?sig=a",
    ],
)
def test_another_port_or_host_is_not_polled_at_all(url: str) -> None:
    assert HOSTS.access(url, FLOW_URL) is PollAccess.REFUSED


@pytest.mark.parametrize(
    ("flow_url", "url"),
    [
        (
            "https://x.logic.azure.com:8443/workflows/4f/triggers/m",
            "https://x.logic.azure.com:8443/workflows/4f/runs/1",
        ),
        ("http://127.0.0.1:5080/workflows/4f/triggers/m", "http://127.0.0.1:5080/workflows/4f/runs/1"),
        ("http://box:5081/start", "http://box:5081/start/runs/1"),
    ],
)
def test_the_settings_of_the_flow_name_another_port(flow_url: str, url: str) -> None:
    assert HOSTS.access(url, flow_url) is PollAccess.WITH_TOKEN


ODD = [
    "\\\\evil.example\\x",
    "/\\evil.example/",
    "https:\\\\evil.example/",
    f"{RUN}\t",
    f"{HOST}\t{WORKFLOW}/runs/1",
    f"{HOST}{WORKFLOW}/runs/\n1",
    f"{HOST}{WORKFLOW}/runs/ 1",
    f"{RUN}#fragment",
    f"{RUN}&a=ü",
    f"{RUN}&a=%",
    f"{RUN}&a=%zz",
    f"{RUN}, {RUN}",
    "https://user:word@x.logic.azure.com/?sig=a",
    "https://x.logic.azure.com@evil.example/?sig=a",
    "https://x.logic.azure.com%2f@evil.example/?sig=a",
    "https://x.logic.azure.com.evil.example\\.logic.azure.com/?sig=a",
    "https://xn--.logic.azure.com\u3002evil/?sig=a",
    "https://[::1",
    "https://[v1.x]/",
    "https://x.logic.azure.com:port/?sig=a",
    "https:///?sig=a",
    "https:?sig=a",
    "https:/runs/1?sig=a",
    "///runs/1?sig=a",
    "//user@x.logic.azure.com/?sig=a",
    "//[::1/?sig=a",
    "javascript:alert(1)",
    "file:///etc/passwd",
    f"{HOST}{WORKFLOW}/../5a/runs/1".replace("..", "%2e%2e"),
    f"{HOST}{WORKFLOW}%2f..%2f5a/runs/1",
    f"{HOST}{WORKFLOW}/runs%5c1",
    "\ud800",
    "\0",
    " ",
    "?" * 8000 + " ",
]


@pytest.mark.parametrize("location", ODD, ids=range(len(ODD)))
def test_a_location_that_parsers_may_read_differently_is_refused(location: str) -> None:
    assert HOSTS.access(resolve(FLOW_URL, location), FLOW_URL) is PollAccess.REFUSED


@pytest.mark.parametrize("dots", [".", "..", "..."])
@pytest.mark.parametrize(
    "around",
    ["{}", "{};", "{};a=1", "{}%3b", "{}%3Ba", "{}%20", "%20{}", "{}%00", "{}%09", "%0d{}", "{}%1f", "{}%7F", "%2e{}"],
)
def test_a_dot_segment_in_any_spelling_is_refused(around: str, dots: str) -> None:
    path = f"{WORKFLOW}/runs/{around.format(dots)}/5a/runs/1"
    for query in ("", "?sig=a"):
        assert HOSTS.access(f"{HOST}{path}{query}", FLOW_URL) is PollAccess.REFUSED


@pytest.mark.parametrize("octets", ["%c0%ae%c0%ae", "%ef%bd%94riggers", "%e3%80%82%e3%80%82", "%ff..", "r%C3%A9sultat"])
def test_a_path_with_octets_beyond_ascii_gets_no_token(octets: str) -> None:
    url = f"{HOST}{WORKFLOW}/runs/{octets}/1"
    assert HOSTS.access(url, FLOW_URL) is PollAccess.NOT_SIGNED
    assert HOSTS.access(f"{url}?sig=a", FLOW_URL) is PollAccess.SIGNED


@pytest.mark.parametrize("run", ["0858..77CU1", "a.b", "a%20b", "a;b=1", ".well-known"])
def test_a_run_with_dots_in_its_name_is_polled_with_the_token(run: str) -> None:
    assert HOSTS.access(f"{HOST}{WORKFLOW}/runs/{run}", FLOW_URL) is PollAccess.WITH_TOKEN


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (f"{WORKFLOW}/runs/1?a=%2F", f"{HOST}:443{WORKFLOW}/runs/1?a=%2F"),
        ("../../../runs/1", f"{HOST}:443{WORKFLOW}/runs/1"),
        ("//y.logic.azure.com/runs/1?sig=a", "https://y.logic.azure.com/runs/1?sig=a"),
        (RUN, RUN),
    ],
)
def test_a_relative_location_is_resolved(location: str, url: str) -> None:
    assert resolve(FLOW_URL, location) == url
    assert HOSTS.access(url, FLOW_URL) in (PollAccess.WITH_TOKEN, PollAccess.SIGNED)


def test_a_location_that_climbs_out_of_the_workflow_gets_no_token() -> None:
    for location in ("../../../../5a/runs/1", f"{HOST}{WORKFLOW}/../5a/runs/1", f"{WORKFLOW}/./../../x"):
        access = HOSTS.access(resolve(FLOW_URL, location), FLOW_URL)
        assert access in (PollAccess.NOT_SIGNED, PollAccess.REFUSED)
