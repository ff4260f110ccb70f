"""The rules of the sinks in the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow_worker.settings import InvalidSettings, Settings, load
from flow_worker.settings.delivery import sinks_of

GOOD = """
[servicebus]
namespace = "contoso.servicebus.windows.net"
[claims]
tenants = ["11111111-2222-3333-4444-555555555555"]
audiences = ["66666666-7777-8888-9999-000000000000"]
[[request_queues]]
name = "flow-requests"
deliver_to = ["row"]
[flows.create-quote]
url = "https://0a.1b.environment.api.powerplatform.com/powerautomate/automations/direct/workflows/abc/triggers/manual"
role = "Quotes.Create"
[delivery.row]
kind = "dataverse_row"
url = "https://contoso.crm4.dynamics.com"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str) -> Settings:
    Path("flow-worker.toml").write_text(text, encoding="utf-8")
    return load()


def test_the_flows_list_of_sinks_replaces_the_queues() -> None:
    settings = loaded(
        GOOD + '[delivery.bell]\nkind = "in_app_notification"\nurl = "https://contoso.crm4.dynamics.com"\n'
    )
    queue, flow = settings.request_queues[0], settings.flows["create-quote"]
    assert sinks_of(queue, flow) == ("row",)
    assert sinks_of(queue, flow.model_copy(update={"deliver_to": ("bell",)})) == ("bell",)
    assert sinks_of(queue, flow.model_copy(update={"deliver_to": ()})) == ()
    assert sinks_of(queue, None) == ("row",)
    assert sinks_of(None, None) == ()


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('deliver_to = ["row"]', 'deliver_to = ["rows"]', r"deliver_to names 'rows', not one of the sinks: row"),
        ('deliver_to = ["row"]', 'deliver_to = ["row", "row"]', "deliver_to names a sink twice"),
        ("[delivery.row]", "[delivery.settle]", "delivery: the name 'settle' is not allowed"),
        ("[delivery.row]", '[delivery."Ro w"]', "delivery: the name 'Ro w' is not allowed"),
        ("https://contoso.crm4.dynamics.com", "http://contoso.crm4.dynamics.com", "delivery.row.url"),
        (
            'url = "https://contoso.crm4.dynamics.com"\n',
            "",
            "delivery.row: queue 'flow-requests' delivers to it, and no",
        ),
        ("dataverse_row", "email", "delivery.row.kind"),
        ("[delivery.row]", "[delivery.row]\nmax_age_seconds = 1000000", "journal.retention_seconds"),
        ("[delivery.row]", '[delivery.row]\ncolumns = { note = "new_flowrequestid" }', "itself sets new_flowrequestid"),
        ("[delivery.row]", '[delivery.row]\ncolumns = { accepted_on = "createdon" }', "itself sets createdon; name"),
        (GOOD[GOOD.index("[delivery.row]") :], "", "deliver_to names 'row', and there is no sink"),
    ],
)
def test_a_fault_names_the_setting(old: str, new: str, fault: str) -> None:
    assert loaded(GOOD)
    assert old in GOOD
    with pytest.raises(InvalidSettings, match=fault):
        loaded(GOOD.replace(old, new))
