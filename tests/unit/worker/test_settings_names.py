"""The names of variables and queues: a wrong one is named as what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flow_worker.settings import InvalidSettings, Settings, load
from flow_worker.settings.faults import PREFIX
from flow_worker.settings.nesting import nesting_faults
from tests.unit.docs.code_names import setting_names

BELOW_LISTS = {"request_queues", "flows"}
"""No variable can name a setting below these: the first is a list, and the second has names of its own."""
OPEN = {"flows.input_schema", "delivery.bodies", "delivery.columns", "delivery.status_choices", "delivery.titles"}
"""A variable can name a member of these."""
GOOD = """
[servicebus]
namespace = "contoso.servicebus.windows.net"
[claims]
tenants = ["11111111-2222-3333-4444-555555555555"]
audiences = ["66666666-7777-8888-9999-000000000000"]
[flows.create-quote]
url = "https://0a.1b.environment.api.powerplatform.com/powerautomate/automations/direct/workflows/abc/triggers/manual"
role = "Quotes.Create"
"""


def single_settings() -> list[str]:
    return sorted(
        name.replace("flows.", "flows.a-flow.", 1)
        if name.startswith("flows.")
        else name.replace("delivery.", "delivery.row.", 1)
        if name.startswith("delivery.")
        else name
        for name in setting_names() - OPEN - {"flows.retry", "flows.limits"}
        if name.split(".")[0] != "request_queues"
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow-worker.toml").write_text(GOOD, encoding="utf-8")
    return tmp_path


def fault() -> str:
    with pytest.raises(InvalidSettings) as refused:
        load()
    return str(refused.value)


@pytest.mark.parametrize("setting", single_settings())
def test_a_variable_below_a_single_value_or_a_list_is_no_setting(setting: str) -> None:
    variable = PREFIX + setting.replace(".", "__").upper()
    assert nesting_faults(variable, Settings) == []
    for below in ("__X", "__0", "__X__Y", "__"):
        (line,) = nesting_faults(variable + below, Settings)
        assert line.startswith(f"{variable}{below}: no such setting; {variable} ")


@pytest.mark.parametrize("name", ["FLOWS__A__INPUT_SCHEMA__TYPE", "FLOWS__A__RETRY__MAX_CALLS", "REPLIES__QUEUES"])
def test_a_table_and_a_schema_may_have_settings_below(name: str) -> None:
    assert nesting_faults(PREFIX + name, Settings) == []


def test_a_variable_below_a_value_is_refused_beside_the_right_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_WORKER_HEALTH__PORT", "8080")
    assert load().health.port == 8080
    monkeypatch.setenv("FLOW_WORKER_HEALTH__PORT__X", "1")
    monkeypatch.setenv("FLOW_WORKER_CLAIMS__TENANTS__0", "1")
    assert fault().splitlines() == [
        "FLOW_WORKER_HEALTH__PORT__X: no such setting; FLOW_WORKER_HEALTH__PORT has no settings below it: set "
        "FLOW_WORKER_HEALTH__PORT, without a suffix",
        "FLOW_WORKER_CLAIMS__TENANTS__0: no such setting; FLOW_WORKER_CLAIMS__TENANTS is a list: write it as JSON, "
        """such as '["a", "b"]'""",
    ]


def test_a_misspelt_variable_in_lower_case_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("flow_worker_health__port", "8081")
    assert load().health.port == 8081
    monkeypatch.setenv("flow_worker_healt__port", "8081")
    assert fault().startswith("FLOW_WORKER_HEALT__PORT: no such setting (did you mean 'HEALTH'?)")


@pytest.mark.parametrize("name", ["a b", "/replies", "replies/", "réponses", "replies?", "replies\n", "-replies"])
@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("FLOW_WORKER_CONTINUATIONS__QUEUE", "continuations.queue: "),
        ("FLOW_WORKER_REPLIES__QUEUES", "entry 1 of replies.queues: "),
        ("FLOW_WORKER_REQUEST_QUEUES", "name in entry 1 of request_queues: "),
    ],
)
def test_the_name_of_a_queue_follows_the_rule_of_service_bus(
    monkeypatch: pytest.MonkeyPatch, variable: str, place: str, name: str
) -> None:
    values: dict[str, object] = {
        "FLOW_WORKER_CONTINUATIONS__QUEUE": name,
        "FLOW_WORKER_REPLIES__QUEUES": json.dumps([name]),
        "FLOW_WORKER_REQUEST_QUEUES": json.dumps([{"name": name}]),
    }
    monkeypatch.setenv(variable, str(values[variable]))
    assert fault().startswith(f"{place}is not the name of a queue: Service Bus allows the letters A to Z, digits")


@pytest.mark.parametrize("name", ["a", "Team/flow-replies", "a.b_c~d-0", "x" * 260])
def test_every_name_that_service_bus_allows_is_accepted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FLOW_WORKER_CONTINUATIONS__QUEUE", name)
    assert load().continuations.queue == name
