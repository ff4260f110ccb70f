"""The settings of the search for flow runs: off by default, on for all flows or for one, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow_worker.settings import InvalidSettings, Settings, load

FLOW_URL = (
    "https://0a.1b.environment.api.powerplatform.com/powerautomate/automations/direct/workflows/abc/triggers/manual"
)
GOOD = f"""
[servicebus]
namespace = "contoso.servicebus.windows.net"
[claims]
tenants = ["11111111-2222-3333-4444-555555555555"]
audiences = ["66666666-7777-8888-9999-000000000000"]
[flows.create-quote]
url = "{FLOW_URL}"
role = "Quotes.Create"
"""
DATAVERSE = '[dataverse]\nurl = "https://contoso.crm4.dynamics.com"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str) -> Settings:
    Path("flow-worker.toml").write_text(text, encoding="utf-8")
    return load()


def recorded(settings: Settings) -> tuple[frozenset[str], str | None]:
    records = settings.run_records
    return records.flows(settings.flows), records.url_for(settings.flows, settings.dataverse)


def test_no_result_is_settled_unless_configured() -> None:
    assert recorded(loaded(GOOD)) == (frozenset(), None)
    assert recorded(loaded(GOOD + DATAVERSE)) == (frozenset(), None)


def test_all_flows_or_one_have_their_results_settled() -> None:
    every = loaded(GOOD + DATAVERSE + "[run_records]\nenabled = true\n")
    assert recorded(every) == (frozenset({"create-quote"}), "https://contoso.crm4.dynamics.com")
    one = loaded(GOOD + 'run_records = true\n[run_records]\nurl = "https://other.crm4.dynamics.com"\n')
    assert recorded(one) == (frozenset({"create-quote"}), "https://other.crm4.dynamics.com")
    assert "https://other.crm4.dynamics.com" in one.dataverse_urls
    assert recorded(loaded(GOOD + "run_records = false\n[run_records]\nenabled = true\n")) == (frozenset(), None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[run_records]\nenabled = true\n", "set run_records.url or dataverse.url"),
        (DATAVERSE + "[run_records]\nenabled = true\ngrace_seconds = 60\nmax_seconds = 60\n", "lower it"),
        (DATAVERSE + "[run_records]\nenabled = true\nmax_seconds = 2419200\n", "more than journal.retention_seconds"),
        ('[run_records]\npage_url = "https://make.powerautomate.com/"\n', "contain {run}"),
        ('[run_records]\npage_url = "http://host/{run}"\n', "begin with https://"),
        ('[run_records]\nurl = "contoso.crm4.dynamics.com"\n', "run_records.url"),
        ('workflow_id = "create-quote"\n', "workflow_id"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_remedy(text: str, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem):
        loaded(GOOD + text)
