"""`check` and the start of a gateway say that no worker serves its queue, or that a key cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flow_worker.access.statement_keys import new_signing_key, private_pem
from flow_worker.cli.main import cli
from flow_worker.settings import GatewaySettings, InvalidSettings, RequestQueue
from flow_worker.settings.gateway_queue import request_queues, unserved

MINIMAL = """
[servicebus]
namespace = "contoso.servicebus.windows.net"
[claims]
tenants = ["11111111-2222-4333-8444-555555555555"]
audiences = ["api://flow-worker"]
[flows.quote]
url = "https://x.environment.api.powerplatform.com/a"
role = "R"
"""
PLAIN = '[[request_queues]]\nname = "flow-requests"\n'
OWN = '[[request_queues]]\nname = "Flow-Requests-Gateway"\nauthority = "gateway"\nreply_to = "flow-replies-gateway"\n'
OTHER = '[[request_queues]]\nname = "flow-requests-gateway"\n'
GATEWAY = "[gateway]\nport = 8081\n"


@pytest.fixture(autouse=True)
def _in_a_folder_without_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [each for each in os.environ if each.startswith("FLOW_WORKER_")]:
        monkeypatch.delenv(name)


def check(*parts: str) -> tuple[int, str]:
    Path("flow-worker.toml").write_text(MINIMAL + "".join(parts), encoding="utf-8")
    result = CliRunner().invoke(cli, ["check"])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("parts", "warns"),
    [
        ((PLAIN, GATEWAY), True),
        ((PLAIN,), False),  # a worker's own file
        ((GATEWAY,), False),  # a gateway's own file
        ((PLAIN, OWN, GATEWAY), False),
        ((OWN, GATEWAY), False),
    ],
)
def test_a_gateway_that_no_worker_of_the_file_serves_is_named(parts: tuple[str, ...], warns: bool) -> None:
    status, output = check(*parts)
    assert (status, "'flow-requests-gateway' is in no [[request_queues]]" in output) == (0, warns)


def test_a_queue_of_the_gateway_with_another_authority_is_an_error() -> None:
    status, output = check(OTHER, GATEWAY)
    assert status == 2
    assert "gateway.request_queue: 'flow-requests-gateway' has the authority 'entra'" in output
    with pytest.raises(InvalidSettings, match="the authority 'entra'"):
        unserved(GatewaySettings(), [RequestQueue(name="flow-requests-gateway")])


def test_the_start_of_a_gateway_sees_the_queues_of_its_file() -> None:
    file = Path("flow-worker.toml")
    file.write_text(MINIMAL + PLAIN, encoding="utf-8")
    assert [queue.name for queue in request_queues(file, None)] == ["flow-requests"]
    assert unserved(GatewaySettings(), request_queues(file, None)) is not None
    file.write_text(MINIMAL, encoding="utf-8")
    assert unserved(GatewaySettings(), request_queues(file, None)) is None


def test_a_gateway_does_not_depend_on_faulty_queues_of_workers() -> None:
    file = Path("flow-worker.toml")
    file.write_text(MINIMAL + '[[request_queues]]\nlanes = "many"\n', encoding="utf-8")
    assert request_queues(file, None) == ()


@pytest.mark.parametrize("setting", ["signing_key", "signing_key_file", "public_keys"])
@pytest.mark.parametrize("parts", [(PLAIN,), (PLAIN, OWN)])
def test_a_key_that_nobody_can_parse_makes_the_settings_invalid(setting: str, parts: tuple[str, ...]) -> None:
    Path("key").write_text("garbage", encoding="utf-8")
    value = "key" if setting == "signing_key_file" else "garbage"
    status, output = check(*parts, f'[statements]\n{setting} = "{value}"\n')
    assert (status, f"statements.{setting}" in output, "settings are valid" in output) == (2, True, False)


def test_a_usable_key_and_a_file_of_another_user_are_valid() -> None:
    key = private_pem(new_signing_key()).decode().replace("\n", "\\n")
    status, output = check(PLAIN, OWN, f'[statements]\nsigning_key = "{key}"\n')
    assert (status, "The settings are valid" in output) == (0, True)
    status, output = check(PLAIN, '[statements]\nsigning_key_file = "not-on-this-machine"\n')
    assert (status, "The settings are valid" in output) == (0, True)
