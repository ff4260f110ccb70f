"""`flow-worker check-access` as an administrator runs it: a real issuer, an emulated Dataverse."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow_worker.access.statement_key_files import open_signing_key
from flow_worker.demo.environment import (
    ON_BEHALF,
    ROLE,
    EmulatorClient,
    running_emulator,
    worker_environment,
    worker_settings,
)
from flow_worker.settings import StatementSettings
from tests.support.command_line import run_command

pytestmark = pytest.mark.timeout(120)

MORE_FLOWS = """
[flows.deep]
url = "{url}/private-quote"
privilege = "prvCreatenew_quote"
privilege_depth = "global"

[flows.both]
url = "{url}/private-quote"
privilege = "prvCreatenew_quote"
role = "Quotes.Create"

[flows.bound]
url = "{url}/private-quote"
role = "Quotes.Create"
bind_claim = true
"""

Check = Any  # a function that runs the command with more arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("check-access")


@pytest.fixture(scope="module")
def emulator(folder: Path) -> Iterator[EmulatorClient]:
    with running_emulator(folder) as running:
        settings = worker_settings(running, 8080) + MORE_FLOWS.format(url=running.flows_url)
        (folder / "flow-worker.toml").write_text(settings, encoding="utf-8")
        yield running


@pytest.fixture
def check(emulator: EmulatorClient, folder: Path) -> Check:
    def run(*arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**worker_environment(emulator), **(env or {})}
        return run_command("check-access", *arguments, cwd=folder, env=environment, stdin=stdin)

    return run


def steps(ended: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    """Return each step's question and outcome."""
    return [(step["question"], step["outcome"]) for step in json.loads(ended.stdout)["steps"]]


def test_a_sender_with_the_role_is_allowed(emulator: EmulatorClient, check: Check) -> None:
    token = emulator.mint("ada", ROLE)
    ended = check("--flow", "create-quote", "--token", token)
    assert ended.returncode == 0, ended.stderr
    assert "Allowed: the worker would call 'create-quote'." in ended.stdout
    assert emulator.object_id("ada") in ended.stdout.replace("\n", "")
    assert token not in ended.stdout + ended.stderr
    calls = httpx.get(f"{emulator.web_url}/emulator/flows/create-quote/calls", timeout=60).json()["calls"]
    assert calls == []


def test_a_refusal_names_the_result_code_that_the_sender_would_get(emulator: EmulatorClient, check: Check) -> None:
    ended = check("--flow", "create-quote", "--token", "-", stdin=emulator.mint("ada", "Other.Role") + "\n")
    assert ended.returncode == 1
    assert "'role_missing'" in ended.stdout
    assert "the app roles Other.Role" in " ".join(ended.stdout.split())


def test_a_reason_that_the_sender_does_not_get_is_told_to_the_administrator(
    emulator: EmulatorClient, check: Check
) -> None:
    token, hidden = emulator.mint("ada", "Other.Role"), {"FLOW_WORKER_EXPLAIN_REFUSALS": "false"}
    ended = check("--flow", "create-quote", "--token", token, env=hidden)
    said = " ".join(ended.stdout.split())
    assert "would not call 'create-quote': 'role_missing'. The sender would get 'flow_not_allowed'" in said
    explanation = json.loads(check("--flow", "nosuch", "--token", token, "--json", env=hidden).stdout)
    assert (explanation["code"], explanation["sender_code"]) == ("unknown_flow", "flow_not_allowed")


def test_the_claims_of_a_token_are_unproven_only_without_a_valid_signature(
    emulator: EmulatorClient, check: Check
) -> None:
    token = emulator.mint("ada", ROLE, claims={"aud": "https://graph.microsoft.com"})
    ended = check("--flow", "create-quote", "--json", env={"FLOW_WORKER_CLAIM": token})
    assert ended.returncode == 1
    explanation = json.loads(ended.stdout)
    assert explanation["code"] == "claim_audience"
    assert "aud=https://graph.microsoft.com" in explanation["steps"][-1]["because"]
    assert "The token claims (signed by the issuer): " in explanation["steps"][-1]["because"]
    assert "claims.audiences allows: " in explanation["steps"][-1]["because"]
    assert token.split(".")[2] not in ended.stdout
    head, payload, signature = token.split(".")
    forged = f"{head}.{payload}.{'A' * len(signature)}"
    ended = check("--flow", "create-quote", "--json", env={"FLOW_WORKER_CLAIM": forged})
    assert json.loads(ended.stdout)["code"] == "claim_invalid"
    assert "The token claims (unproven): " in json.loads(ended.stdout)["steps"][-1]["because"]


def test_a_refused_client_or_scope_names_its_setting_and_the_allowed_values(
    emulator: EmulatorClient, check: Check
) -> None:
    allowed = "11111111-2222-3333-4444-555555555555"
    for setting, value, code in (("clients", allowed, "claim_client"), ("scopes", "quotes", "claim_scope")):
        limits = {f"FLOW_WORKER_CLAIMS__{setting.upper()}": json.dumps([value])}
        ended = check("--flow", "create-quote", "--token", emulator.mint("ada", ROLE), "--json", env=limits)
        explanation = json.loads(ended.stdout)
        assert explanation["code"] == code
        assert f"claims.{setting} allows: {value}." in explanation["steps"][-1]["because"]
        assert "unproven" not in ended.stdout


def test_the_explanation_begins_with_the_queue_that_it_is_about(emulator: EmulatorClient, check: Check) -> None:
    queues = [{"name": "first"}, {"name": "second", "dataverse_url": "https://contoso.crm4.dynamics.com"}]
    env = {"FLOW_WORKER_REQUEST_QUEUES": json.dumps(queues)}
    arguments = ["--flow", "create-quote", "--user", emulator.object_id("ada"), "--json"]
    explanation = json.loads(check(*arguments, env=env).stdout)
    assert explanation["queue"] == "first"
    assert "--queue names another" in explanation["steps"][0]["because"]
    explanation = json.loads(check(*arguments, "--queue", "SECOND", env=env).stdout)
    assert explanation["queue"] == "second"
    assert explanation["steps"][0]["because"] == (
        "'second', authority 'entra'; its privileges come from https://contoso.crm4.dynamics.com."
    )


def test_a_gateways_queue_has_the_step_of_the_gateways_keys(
    emulator: EmulatorClient, check: Check, folder: Path
) -> None:
    arguments = ["--flow", "create-quote", "--queue", "flow-requests-gateway", "--token", emulator.mint("ada", ROLE)]
    ended = check(*arguments, "--json")
    explanation = json.loads(ended.stdout)
    assert (ended.returncode, explanation["code"]) == (3, "statement_keys_unavailable")
    asyncio.run(open_signing_key(StatementSettings(key_path=folder / "flow-worker-gateway-key.pem")))
    ended = check(*arguments, "--json")
    assert ended.returncode == 0, ended.stdout
    assert ("Can the worker verify the gateway's statements?", "allowed") in steps(ended)


def test_the_claim_is_judged_before_the_flow_lookup(emulator: EmulatorClient, check: Check) -> None:
    ended = check("--flow", "nosuch", "--token", "garbage", "--json")
    assert json.loads(ended.stdout)["code"] == "claim_invalid"
    ended = check("--flow", "nosuch", "--token", emulator.mint("ada", ROLE), "--json")
    assert steps(ended)[1:] == [("Is the claim valid?", "allowed"), ("Is the flow registered?", "refused")]
    assert json.loads(ended.stdout)["code"] == "unknown_flow"


def test_privilege_and_role_are_separate_steps(emulator: EmulatorClient, check: Check) -> None:
    ada, bob = emulator.object_id("ada"), emulator.object_id("bob")
    ended = check("--flow", "private-quote", "--user", ada, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert steps(ended)[-1] == ("Does the user hold the privilege?", "allowed")
    for flow, user, code, reason in (
        ("private-quote", bob, "privilege_missing", "does not hold it at all"),
        ("deep", ada, "privilege_missing", "holds it at depth local"),
    ):
        ended = check("--flow", flow, "--user", user, "--json")
        assert (ended.returncode, json.loads(ended.stdout)["code"]) == (1, code)
        assert reason in json.loads(ended.stdout)["steps"][-1]["because"]
    ended = check("--flow", "both", "--user", ada, "--json")
    assert ended.returncode == 3
    assert steps(ended)[-2:] == [
        ("Does the sender hold the role?", "not known"),
        ("Does the user hold the privilege?", "allowed"),
    ]


def test_naming_another_user_is_a_separate_step(emulator: EmulatorClient, check: Check) -> None:
    ada = emulator.object_id("ada")
    plug_in = emulator.mint("plug-in", ON_BEHALF, claims={"scp": None, "idtyp": "app"})
    ended = check("--flow", "private-quote", "--token", plug_in, "--on-behalf-of", ada, "--json")
    assert ended.returncode == 0, ended.stdout
    assert ("May the sender name another user?", "allowed") in steps(ended)
    ended = check("--flow", "private-quote", "--token", emulator.mint("bob", ON_BEHALF), "--on-behalf-of", ada)
    assert ended.returncode == 1
    assert "'on_behalf_of_not_allowed'" in ended.stdout


def test_the_explanation_of_a_bound_claim_names_its_request(emulator: EmulatorClient, check: Check) -> None:
    ended = check("--flow", "bound", "--token", emulator.mint("ada", ROLE, claims={"nonce": "request-1"}), "--json")
    assert ended.returncode == 0, ended.stdout
    assert "'request-1'" in json.loads(ended.stdout)["steps"][-1]["because"]
    ended = check("--flow", "bound", "--token", emulator.mint("ada", ROLE), "--json")
    assert (ended.returncode, json.loads(ended.stdout)["code"]) == (1, "claim_not_bound")


def test_a_check_that_cannot_be_decided_now_is_no_refusal(emulator: EmulatorClient, check: Check) -> None:
    emulator.control("PUT", "dataverse", {"faults": [{"kind": "html", "status": 503}]})
    try:
        ended = check("--flow", "private-quote", "--user", emulator.object_id("ada"))
    finally:
        emulator.control("PUT", "dataverse", {"faults": []})
    assert ended.returncode == 3
    assert "Not known" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--flow", "absent", "--user", "11111111-2222-3333-4444-555555555555"], 1, "create-quote"),
        (["--flow", "create-quote"], 2, "The sender is missing."),
        (["--flow", "create-quote", "--user", "ada@contoso.com"], 2, "Entra object ID"),
        (["--flow", "create-quote", "--token", "x", "--user", "x"], 2, "not both"),
        (["--flow", "create-quote", "--token", "not-a-token"], 1, "claim_invalid"),
        (["--flow", "create-quote", "--token", "not a token"], 2, "white space inside the token"),
        (["--flow", "create-quote", "--user", "11111111-2222-3333-4444-555555555555", "--config", "x"], 2, "settings"),
    ],
)
def test_wrong_usage_is_explained(check: Check, arguments: list[str], status: int, message: str) -> None:
    ended = check(*arguments)
    assert ended.returncode == status
    assert message in ended.stdout + ended.stderr
