"""`init`: the folder that it prints and refuses, and what it leaves as it is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flow_worker.cli import init_files
from flow_worker.cli.init import quoted
from flow_worker.cli.main import cli
from flow_worker.settings import load
from flow_worker.settings.gateway_queue import configured_queues, unserved
from flow_worker.settings.placeholders import placeholders

FOLDERS = ["quotes", "my quotes", "a'b", "$(touch x)", "-x", "~", "a;b&c"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_printed_folder_is_one_word_of_the_shell(folder: str) -> None:
    (word,) = shlex.split(quoted(folder, powershell=False))
    assert word.removeprefix("./") == folder


@pytest.mark.parametrize(
    ("folder", "expected"),
    [(r"C:\a\b", r"C:\a\b"), ("a b", "'a b'"), ("a'b", "'a''b'"), ("$x", "'$x'"), ("-x", "./-x"), ("~", "'~'")],
)
def test_powershell_doubles_a_quotation_mark(folder: str, expected: str) -> None:
    assert quoted(folder, powershell=True) == expected


def test_secrets_and_files_of_the_machine_are_ignored(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["init", str(tmp_path / "my quotes")])
    assert result.exit_code == 0, result.output
    assert f"cd {shlex.quote(str(tmp_path / 'my quotes'))}" in result.output
    ignored = (tmp_path / "my quotes" / ".gitignore").read_text().splitlines()
    assert {".env", "emulator.env", "*.sqlite3*"} <= set(ignored)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_folder_name_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["init", name]).exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
@pytest.mark.parametrize("name", ["flow-worker.toml", ".gitignore"])
def test_a_name_that_is_taken_by_no_file_is_an_error(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "absent")
    result = CliRunner().invoke(cli, ["init", str(tmp_path)])
    assert result.exit_code == 2
    assert [found.name for found in tmp_path.iterdir()] == [name], "nothing is written"


def test_the_gateways_block_of_the_template_can_be_enabled_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the emulator, without a public URL: locations would else name a host that does not exist."""
    monkeypatch.chdir(tmp_path)
    before, heading, rest = init_files.TOML.partition("# The queue of the HTTP gateway")
    block, end, after = rest.partition("\n\n[continuations]")
    first, *lines = block.split("\n")
    assert all(line.startswith("# ") for line in lines)
    text = "\n".join([f"{before}{heading}{first}", *(line[2:] for line in lines)]) + end + after
    Path("flow-worker.toml").write_text(text, encoding="utf-8")
    loaded = load()
    assert loaded.gateway_reply_queues == {"flow-requests-gateway": "flow-replies-gateway"}
    assert loaded.gateway.allowed_origins == ("http://localhost:8000",)
    assert loaded.gateway.public_url is None
    assert unserved(loaded.gateway, configured_queues(loaded)) is None


def test_the_placeholders_of_the_template_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, ["init"]).exit_code == 0
    found = placeholders(load(tmp_path / "flow-worker.toml"))
    assert found == ["servicebus.namespace", "claims.tenants", "flows.create-quote.url"]
    result = CliRunner().invoke(cli, ["check"])
    assert result.exit_code == 0
    assert [name for name in found if f"{name} has the placeholder" not in result.output] == []
    file = tmp_path / "flow-worker.toml"
    text = file.read_text(encoding="utf-8").replace("contoso", "fabrikam").replace("0" * 8, "12345678")
    file.write_text(text.replace("0123456789abcdef0123456789abcd", "1" * 30), encoding="utf-8")
    assert placeholders(load(file)) == []


def test_the_template_shows_sinks_that_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = init_files.TOML
    start, end = text.index("# [delivery.rows]"), text.index("# One table for each flow.")
    lines = text[start:end].replace("# Looks for", "#- Looks for").splitlines()
    shown = "\n".join(line.removeprefix("# ") for line in lines)
    text = text[:start] + shown + "\n" + text[end:]
    text = text.replace('# url = "https://contoso.crm4', 'url = "https://contoso.crm4').replace(
        "# [dataverse]", "[dataverse]"
    )
    text = text.replace("# privilege =", "privilege =").replace(
        'name = "flow-requests"\n', 'name = "flow-requests"\ndeliver_to = ["rows"]\n'
    )
    (tmp_path / "flow-worker.toml").write_text(text, encoding="utf-8")
    settings = load(tmp_path / "flow-worker.toml")
    assert settings.request_queues[0].deliver_to == ("rows",)
    assert settings.delivery["rows"].kind == "dataverse_row"
    assert settings.run_records.enabled
