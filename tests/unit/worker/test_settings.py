"""Valid settings load, invalid ones name field, value, bounds and remedy, and secrets stay secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flow_worker.cli.main import cli
from flow_worker.pipeline.seal import SealKey
from flow_worker.settings import InvalidSettings, Settings, load
from flow_worker.settings.clouds import CLOUDS

TENANT = "11111111-2222-3333-4444-555555555555"
FLOW_URL = (
    "https://abcdef0123456789abcdef01234567.89.environment.api.powerplatform.com/powerautomate/automations/direct/"
    "workflows/0123456789abcdef0123456789abcdef/triggers/manual/paths/invoke?api-version=1"
)
GOOD = f"""
[servicebus]
namespace = "contoso.servicebus.windows.net"

[claims]
tenants = ["{TENANT}"]
audiences = ["api://flow-worker"]

[flows.create-quote]
url = "{FLOW_URL}"
role = "Quotes.Create"
"""


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without FLOW_WORKER_ variables."""
    for name in [name for name in os.environ if name.startswith("FLOW_WORKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(folder: Path, text: str) -> Settings:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def fault(folder: Path, text: str) -> str:
    with pytest.raises(InvalidSettings) as caught:
        loaded(folder, text)
    return str(caught.value)


def test_a_file_with_only_the_required_settings_is_enough(nowhere: Path) -> None:
    settings = loaded(nowhere, GOOD)
    assert [queue.name for queue in settings.request_queues] == ["flow-requests"]
    assert settings.replies.default_queue == "flow-replies"
    assert settings.facts.flow_scope == "https://service.flow.microsoft.com//.default"
    assert settings.authority == "https://login.microsoftonline.com"
    assert settings.flows["create-quote"].idempotent is False


def test_workers_with_a_table_journal_need_a_common_key_for_their_continuations(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = GOOD + '[journal]\nbackend = "table"\ntable_endpoint = "https://contoso.table.core.windows.net"\n'
    assert "FLOW_WORKER_CONTINUATIONS__SEAL_KEY" in fault(nowhere, table)
    monkeypatch.setenv("FLOW_WORKER_CONTINUATIONS__SEAL_KEY", "hushhush" * 8)
    settings = loaded(nowhere, table)
    assert "hush" not in json.dumps(settings.echo()) + repr(settings)


def test_check_shows_the_key_of_the_continuations_by_a_short_hash_and_makes_none(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nowhere / "flow-worker.toml").write_text(GOOD, encoding="utf-8")
    done = CliRunner().invoke(cli, ["check"])
    assert (done.exit_code, [one.name for one in nowhere.iterdir()]) == (0, ["flow-worker.toml"])
    assert "creates the key" in done.output
    monkeypatch.setenv("FLOW_WORKER_CONTINUATIONS__SEAL_KEY", "hushhush" * 8)
    done = CliRunner().invoke(cli, ["check"])
    assert SealKey(b"hushhush" * 8).id in done.output
    assert "hush" not in done.output
    monkeypatch.setenv("FLOW_WORKER_CONTINUATIONS__PREVIOUS_SEAL_KEY", "hush" * 8)
    done = CliRunner().invoke(cli, ["check"])
    assert SealKey(b"hush" * 8).id in done.output
    assert "hush" not in done.output


def test_check_warns_of_a_queue_without_the_dataverse_that_a_flow_needs(nowhere: Path) -> None:
    queues = """
[[request_queues]]
name = "with"
dataverse_url = "https://contoso.crm4.dynamics.com"
[[request_queues]]
name = "without"
"""
    by_privilege = GOOD.replace('role = "Quotes.Create"', 'privilege = "prvCreatenew_quote"')
    for text, is_warned in ((queues + by_privilege, True), (queues + GOOD, False), (by_privilege + DATAVERSE, False)):
        (nowhere / "flow-worker.toml").write_text(text, encoding="utf-8")
        done = CliRunner().invoke(cli, ["check"])
        assert done.exit_code == 0
        assert ("Warning: queue 'without' has no Dataverse" in done.stderr) == is_warned
        assert "queue 'with'" not in done.stderr


def test_a_file_in_the_working_directory_is_found(nowhere: Path) -> None:
    (nowhere / "flow-worker.toml").write_text(GOOD, encoding="utf-8")
    assert load().servicebus.namespace == "contoso.servicebus.windows.net"


def test_the_environment_overrides_dotenv_and_dotenv_overrides_the_file(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nowhere / ".env").write_text("FLOW_WORKER_CLOUD=gcc\nFLOW_WORKER_SHUTDOWN_GRACE_SECONDS=7\n", encoding="utf-8")
    monkeypatch.setenv("FLOW_WORKER_SHUTDOWN_GRACE_SECONDS", "9")
    hosts = 'flow_hosts = ["*.environment.api.powerplatform.com"]\n'
    settings = loaded(nowhere, f'cloud = "public"\n{hosts}shutdown_grace_seconds = 5\n' + GOOD)
    assert (settings.shutdown_grace_seconds, settings.cloud, len(settings.flow_hosts)) == (9, "gcc", 1)


def test_a_nested_variable_joins_names_by_two_underscores(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_WORKER_SERVICEBUS__NAMESPACE", "fabrikam.servicebus.windows.net")
    assert loaded(nowhere, GOOD).servicebus.namespace == "fabrikam.servicebus.windows.net"


def test_every_missing_setting_is_named_at_once_with_its_remedy(nowhere: Path) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load()
    text = str(caught.value)
    for name in ("servicebus", "claims", "flows"):
        assert f"{name}: required; set FLOW_WORKER_{name.upper()} or {name} in the TOML file" in text


def test_a_number_out_of_bounds_names_its_field(nowhere: Path) -> None:
    text = fault(nowhere, GOOD.replace("[claims]", "receive_wait_seconds = 0.1\n[claims]"))
    assert "servicebus.receive_wait_seconds" in text
    assert "FLOW_WORKER_SERVICEBUS__RECEIVE_WAIT_SECONDS" in text


def test_a_misspelt_name_is_refused(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "request_queue: no such setting" in fault(nowhere, 'request_queue = "x"\n' + GOOD)
    assert "role_name" in fault(nowhere, GOOD + 'role_name = "x"\n')
    monkeypatch.setenv("FLOW_WORKER_SERVICE_BUS__NAMESPACE", "x")
    assert "FLOW_WORKER_SERVICE_BUS__NAMESPACE: no such setting" in fault(nowhere, GOOD)


def test_a_missing_or_broken_file_is_named(nowhere: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"absent\.toml: no such file"):
        load(Path("absent.toml"))
    assert "not valid TOML" in fault(nowhere, "flows = [")
    assert "save it as UTF-8 without one" in fault(nowhere, "\ufeff" + GOOD)


def test_a_file_that_a_windows_shell_wrote_in_utf_16_is_named(nowhere: Path) -> None:
    (nowhere / "wide.toml").write_text(GOOD, encoding="utf-16")
    with pytest.raises(InvalidSettings, match=r"wide\.toml: not UTF-8"):
        load(nowhere / "wide.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_variables_is_read_in_every_encoding_that_powershell_writes(nowhere: Path, encoding: str) -> None:
    (nowhere / "flow-worker.toml").write_text(GOOD, encoding="utf-8")
    (nowhere / "wide.env").write_text("FLOW_WORKER_LOG__FORMAT=json\n", encoding=encoding)
    assert load(env_file=nowhere / "wide.env").log.format == "json"


def test_a_named_file_of_variables_must_exist(nowhere: Path) -> None:
    (nowhere / "flow-worker.toml").write_text(GOOD, encoding="utf-8")
    load()
    with pytest.raises(InvalidSettings, match=r"absent\.env: no such file; .* --env-file"):
        load(env_file=nowhere / "absent.env")


def test_a_misspelt_variable_in_the_file_of_variables_is_named(nowhere: Path) -> None:
    (nowhere / ".env").write_text("FLOW_WORKER_SERVICEBUSS__NAMESPACE=x\n", encoding="utf-8")
    assert "FLOW_WORKER_SERVICEBUSS__NAMESPACE: no such setting (did you mean 'SERVICEBUS'?)" in fault(nowhere, GOOD)


def test_null_in_a_variable_unsets_a_setting_of_the_toml_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey=k"
    monkeypatch.setenv("FLOW_WORKER_SERVICEBUS__CONNECTION_STRING", secret)
    assert "set exactly one of" in fault(nowhere, GOOD)
    monkeypatch.setenv("FLOW_WORKER_SERVICEBUS__NAMESPACE", "null")
    assert loaded(nowhere, GOOD).servicebus.namespace is None


def test_the_identity_of_a_file_of_variables_reaches_azure_identity(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", "set by the platform")
    monkeypatch.setenv("IDENTITY_HEADER", "restores the variable after the test")
    monkeypatch.delenv("IDENTITY_HEADER")
    (nowhere / ".env").write_text("IDENTITY_ENDPOINT=http://x\nIDENTITY_HEADER=h\n", encoding="utf-8")
    loaded(nowhere, GOOD)
    assert (os.environ["IDENTITY_ENDPOINT"], os.environ["IDENTITY_HEADER"]) == ("set by the platform", "h")


def test_a_byte_order_mark_does_not_hide_the_first_variable_of_dotenv(nowhere: Path) -> None:
    (nowhere / ".env").write_text("FLOW_WORKER_SHUTDOWN_GRACE_SECONDS=7\n", encoding="utf-8-sig")
    assert loaded(nowhere, GOOD).shutdown_grace_seconds == 7


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            "[claims]",
            "[health]\nport = 70000\n[claims]",
            "health.port: must be a whole number from 0 to 65535, not 70000; "
            "set FLOW_WORKER_HEALTH__PORT or health.port in the TOML file",
        ),
        (
            "[claims]",
            '[log]\nlevel = "info"\n[claims]',
            "log.level: must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR', not 'info'; "
            "set FLOW_WORKER_LOG__LEVEL or log.level in the TOML file",
        ),
        (
            "namespace =",
            "namspace =",
            "servicebus.namspace: no such setting (did you mean 'namespace'?); "
            "`flow-worker schema settings` lists all settings",
        ),
        (
            f'["{TENANT}"]',
            f'"{TENANT}"',
            f'claims.tenants: must be a list, such as ["{TENANT}"]; '
            "set FLOW_WORKER_CLAIMS__TENANTS or claims.tenants in the TOML file",
        ),
        (
            TENANT,
            "contoso.example",
            "entry 1 of claims.tenants: must be an ID such as 11111111-2222-3333-4444-555555555555, not a name; "
            "found 'contoso.example'; set FLOW_WORKER_CLAIMS__TENANTS (as JSON) or claims.tenants in the TOML file",
        ),
        (
            'role = "Quotes.Create"',
            'role = "a"\ntimeout_seconds = 0',
            "flows.create-quote.timeout_seconds: must be a number above 0 and at most 3600, not 0; "
            "set FLOW_WORKER_FLOWS (as JSON) or flows.create-quote.timeout_seconds in the TOML file",
        ),
        (
            "contoso.servicebus.windows.net",
            "sb://contoso.servicebus.windows.net",
            "servicebus.namespace: must be a host name such as contoso.servicebus.windows.net, without sb:// and "
            "port; set FLOW_WORKER_SERVICEBUS__NAMESPACE or servicebus.namespace in the TOML file",
        ),
    ],
)
def test_a_fault_is_one_line_with_field_value_bounds_and_remedy(
    nowhere: Path, before: str, after: str, expected: str
) -> None:
    assert fault(nowhere, GOOD.replace(before, after)).splitlines() in ([expected], [expected, _NEITHER])


_NEITHER = "servicebus: set exactly one of connection_string and namespace (namespace uses the managed identity)"


def test_a_value_that_can_be_a_secret_in_the_wrong_place_is_not_repeated(nowhere: Path) -> None:
    text = fault(nowhere, GOOD.replace("[claims]", f'credential = "{"hush" * 10}"\n[claims]'))
    assert "servicebus.credential: must be 'managed-identity' or 'default'; set" in text
    assert "hush" not in text


def test_a_list_that_is_not_json_is_reported_with_its_variable(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_WORKER_CLAIMS__TENANTS", TENANT)
    text = fault(nowhere, GOOD)
    assert "FLOW_WORKER_CLAIMS__TENANTS: not JSON; write a list" in text
    monkeypatch.setenv("FLOW_WORKER_CLAIMS__TENANTS", f'["{TENANT}"]')
    monkeypatch.setenv("FLOW_WORKER_FLOWS", "hush")
    assert "FLOW_WORKER_FLOWS: not JSON; write a table" in fault(nowhere, GOOD)
    monkeypatch.delenv("FLOW_WORKER_FLOWS")
    (nowhere / ".env").write_text("FLOW_WORKER_REPLIES__QUEUES=hush\n", encoding="utf-8")
    assert "FLOW_WORKER_REPLIES__QUEUES: not JSON; write a list" in fault(nowhere, GOOD)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[retry]\nmax_calls = "many"', "retry.max_calls: must be a whole number from 1 to 1000, not 'many'; set "),
        ("[retry]\nmax_calls = 1.5", "retry.max_calls: must be a whole number from 1 to 1000, not 1.5; set "),
        ("[retry]\nbase_seconds = nan", "retry.base_seconds: must be a number from 0.01 to 3600, not nan; set "),
        ('shutdown_seconds = "x"', "shutdown_seconds: must be a number above 0 and at most 7200, not 'x'; set "),
        ("[journal]\nreserve_bytes = -1", "reserve_bytes: must be a whole number from 0 to 4294967296, not -1; set "),
        ('[dead_letters]\nwatch = "maybe"', "dead_letters.watch: must be true or false, not 'maybe'; set "),
        ("retry = 5", "retry: must be a table, not 5; set FLOW_WORKER_RETRY or retry in the TOML file"),
        ("[health]\nhost = 5", "health.host: must be text in quotes, not 5; set "),
        ('flow_hosts = "x"', 'flow_hosts: must be a list, such as ["x"]; set FLOW_WORKER_FLOW_HOSTS or flow_hosts in '),
        ('[replies]\nqueues = [""]', "entry 1 of replies.queues: must not be empty; set FLOW_WORKER_REPLIES__QUEUES "),
        (
            '[[request_queues]]\nname = "a"\n[[request_queues]]\nname = "b"\nlanes = 0',
            "lanes in entry 2 of request_queues: must be a whole number from 1 to 256, not 0; "
            "set FLOW_WORKER_REQUEST_QUEUES (as JSON) or request_queues in the TOML file",
        ),
        ("[retry]\nmax_call = 1", "retry.max_call: no such setting (did you mean 'max_calls'?); `flow-worker schema"),
        ("shutdown_second = 1", "shutdown_second: no such setting (did you mean 'shutdown_seconds'?); known: "),
        ('[continuations]\nseal_key = "hush"', "continuations.seal_key: has 4 characters, and a key needs 32 "),
        (
            f'[continuations]\nseal_key = "{"hu" * 16}"\nseal_key_file = "x"',
            "continuations: seal_key and seal_key_file are both set; keep one of them, and remove the other",
        ),
    ],
)
def test_a_fault_says_what_is_allowed_and_what_was_found(nowhere: Path, text: str, expected: str) -> None:
    lines = fault(nowhere, text + "\n" + GOOD).splitlines()
    assert len(lines) == 1
    assert expected in lines[0]
    assert "hush" not in lines[0]


def test_a_schema_of_the_wrong_type_is_one_fault(nowhere: Path) -> None:
    text = fault(nowhere, GOOD + 'input_schema = "x"\n')
    assert text.startswith("flows.create-quote.input_schema: must be a table, true or false, not 'x'; set ")
    assert len(text.splitlines()) == 1


def test_a_rule_of_a_group_ends_with_its_own_remedy(nowhere: Path) -> None:
    assert fault(nowhere, GOOD.replace("[claims]", 'connection_string = "x"\n[claims]')) == _NEITHER


def test_a_misspelt_variable_gets_a_suggestion(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_WORKER_SERVICE_BUS__NAMESPACE", "x")
    assert "SERVICE_BUS__NAMESPACE: no such setting (did you mean 'SERVICEBUS'?); known" in fault(nowhere, GOOD)


def services_of(service: str, address: str, port: str, name: str) -> dict[str, str]:
    """Return the variables that Kubernetes makes for a Service with one named port."""
    prefix = service.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    one = f"{prefix}_PORT_{port}_TCP"
    return {
        f"{prefix}_SERVICE_HOST": address,
        f"{prefix}_SERVICE_PORT": port,
        f"{prefix}_SERVICE_PORT_{name}": port,
        f"{prefix}_PORT": f"tcp://{host}:{port}",
        one: f"tcp://{host}:{port}",
        f"{one}_PROTO": "tcp",
        f"{one}_PORT": port,
        f"{one}_ADDR": address,
    }


@pytest.mark.parametrize("service", ["flow-worker", "flow-worker-gateway", "flow-worker-2", "flow-worker-health"])
@pytest.mark.parametrize("address", ["10.0.171.239", "fd00:10:96::a"])
def test_variables_of_kubernetes_for_a_service_of_our_name_are_no_settings(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, service: str, address: str
) -> None:
    for name, value in services_of(service, address, "8080", "HTTP_METRICS").items():
        monkeypatch.setenv(name, value)
    assert loaded(nowhere, GOOD).servicebus.namespace == "contoso.servicebus.windows.net"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FLOW_WORKER_SERVICE_HOST", "contoso.servicebus.windows.net"),
        ("FLOW_WORKER_PORT", "8080"),
        ("FLOW_WORKER_SERVICE_PORT", "http"),
        ("FLOW_WORKER_PORT_8080_TCP_ADDR", "gateway"),
        ("FLOW_WORKER_HEALTH_PORT", "8080"),
        ("FLOW_WORKER_SERVICE_HOSTS", "10.0.171.239"),
    ],
)
def test_variables_without_the_values_of_kubernetes_are_misspelt_settings(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert f"{variable}: no such setting" in fault(nowhere, GOOD)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("FLOW_WORKER_SERVICEBUS__NAMESPCE", "FLOW_WORKER_SERVICEBUS__NAMESPACE"),
        ("FLOW_WORKER_RETRY__MAXCALLS", "FLOW_WORKER_RETRY__MAX_CALLS"),
    ],
)
def test_a_misspelt_nested_variable_is_named_as_it_was_written(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    monkeypatch.setenv(variable, "3")
    assert f"{variable}: no such setting (did you mean '{expected}'?); `flow-worker schema" in fault(nowhere, GOOD)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("ROLE2 = 'x'\n", "flows.create-quote.ROLE2: no such setting (did you mean 'role'?)"),
        ("[retry]\nMax-Calls = 3\n", "retry.Max-Calls: no such setting (did you mean 'max_calls'?)"),
        ("[Journal]\npath = 'x'\n", "Journal: no such setting (did you mean 'journal'?)"),
        ("plain_http_hosts = []\n", "no such setting (did you mean 'plain_http_hosts', before the first table?)"),
        ("[health]\nclient_id = 'x'\n", "health.client_id: no such setting (did you mean 'identity.client_id'?)"),
        ("[health]\nzzz = 1\n", "health.zzz: no such setting; `flow-worker schema"),
    ],
)
def test_a_misspelt_or_misplaced_name_gets_a_suggestion(nowhere: Path, toml: str, expected: str) -> None:
    assert expected in fault(nowhere, GOOD + toml)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("privilege = 'Create'\n", "must be the name of a privilege: prv, then letters"),
        ("[journal]\ntable_name = '1'\n", "must be 3 to 63 letters and digits, and begin with a letter, not '1'"),
    ],
)
def test_a_pattern_is_said_in_words(nowhere: Path, toml: str, expected: str) -> None:
    text = fault(nowhere, GOOD + toml)
    assert expected in text
    assert "pattern" not in text


def test_a_queue_has_one_purpose(nowhere: Path) -> None:
    twice = '[[request_queues]]\nname = "a"\n[[request_queues]]\nname = "A"\n'
    assert "request_queues: two entries are named 'a'" in fault(nowhere, twice + GOOD)
    both = '[replies]\nqueues = ["Flow-Requests"]\n'
    assert "replies.queues: 'flow-requests' is also a request queue" in fault(nowhere, both + GOOD)


def test_a_host_is_not_a_url(nowhere: Path) -> None:
    assert "flow_hosts: 'https://a.example' is not" in fault(nowhere, 'flow_hosts = ["https://a.example"]\n' + GOOD)
    assert "flow_hosts: 'a.example:443' is not" in fault(nowhere, 'flow_hosts = ["a.example:443"]\n' + GOOD)
    assert "plain_http_hosts: 'http://a:1' is not" in fault(nowhere, 'plain_http_hosts = ["http://a:1"]\n' + GOOD)


def test_exactly_one_way_to_connect_to_service_bus_is_required(nowhere: Path) -> None:
    both = GOOD.replace("[claims]", 'connection_string = "Endpoint=sb://x/;SharedAccessKey=hush"\n[claims]')
    assert "exactly one of connection_string and namespace" in fault(nowhere, both)
    assert "hush" not in fault(nowhere, both)


@pytest.mark.parametrize(
    ("connection_string", "expected"),
    [
        ("SharedAccessKey=hush", "Endpoint=sb://"),
        ("Endpoint=hush", "Endpoint=sb://"),
        ("Endpoint=sb://x/;EntityPath=q;SharedAccessKey=hush", "EntityPath"),
        ("Endpoint=sb://x/", "SharedAccessKeyName=…;SharedAccessKey=…"),  # cut off, as by a shell at the semicolon
        ("Endpoint=sb://x/;SharedAccessKey=hush", "SharedAccessKeyName=…;SharedAccessKey=…"),
        ("Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey=hush;hush", "name=value between semicolons"),
    ],
)
def test_a_connection_string_of_the_wrong_kind_is_refused_without_repeating_it(
    nowhere: Path, connection_string: str, expected: str
) -> None:
    text = fault(
        nowhere,
        GOOD.replace('namespace = "contoso.servicebus.windows.net"', f'connection_string = "{connection_string}"'),
    )
    assert expected in text
    assert "hush" not in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (FLOW_URL + "&sp=%2Ftriggers&sv=1.0&sig=hush", "SAS signature"),
        (FLOW_URL.replace("https:", "http:"), "not https"),
        ("https://evil.example/powerautomate/hush", "not a flow host of the public cloud"),
        ("https://environment.api.powerplatform.com.evil.example/hush", "not a flow host"),
        ("https://notlogic.azure.com/hush", "not a flow host"),
        ("https://user:hush@x.environment.api.powerplatform.com/", "not an absolute URL"),
        ("invoke?hush", "not an absolute URL"),
        ("https://[hush", "not an absolute URL"),
        ("https://x.environment.api.powerplatform.com:hush/", "not an absolute URL"),
    ],
)
def test_a_url_that_the_token_must_not_reach_is_refused_without_repeating_it(
    nowhere: Path, url: str, expected: str
) -> None:
    text = fault(nowhere, GOOD.replace(FLOW_URL, url))
    assert "flows.create-quote.url" in text
    assert expected in text
    assert "hush" not in text


def test_a_sovereign_cloud_has_other_hosts_and_another_scope(nowhere: Path) -> None:
    assert "not a flow host of the gcc-high cloud" in fault(nowhere, 'cloud = "gcc-high"\n' + GOOD)
    there = FLOW_URL.replace("api.powerplatform.com", "api.high.powerplatform.microsoft.us")
    settings = loaded(nowhere, 'cloud = "gcc-high"\n' + GOOD.replace(FLOW_URL, there))
    assert settings.facts.flow_scope == "https://high.service.flow.microsoft.us//.default"
    assert settings.authority == "https://login.microsoftonline.us"


def test_plain_http_is_allowed_only_to_hosts_in_plain_http_hosts(nowhere: Path) -> None:
    here = GOOD.replace(FLOW_URL, "http://127.0.0.1:5380/flows/x")
    assert "name '127.0.0.1:5380' in plain_http_hosts" in fault(nowhere, here)
    loaded(nowhere, 'plain_http_hosts = ["127.0.0.1:5380"]\n' + here)
    assert "not https" in fault(nowhere, 'plain_http_hosts = ["127.0.0.1:5381"]\n' + here)


def test_an_issuer_without_tls_is_allowed_only_at_hosts_in_plain_http_hosts(nowhere: Path) -> None:
    text = fault(nowhere, GOOD.replace("[claims]", '[claims]\nauthority = "http://127.0.0.1:5380"'))
    assert "claims.authority is not https" in text
    for authority in ("login.microsoftonline.com", "https://[", "https://:1"):
        text = fault(nowhere, GOOD.replace("[claims]", f'[claims]\nauthority = "{authority}"'))
        assert "claims.authority is not an absolute URL" in text


def test_a_url_that_is_not_an_organizations_is_reported_with_its_setting(nowhere: Path) -> None:
    for url in ("contoso.crm4.dynamics.com", "https://[contoso", "https://contoso.crm4.dynamics.com/"):
        assert "dataverse.url is not" in fault(nowhere, GOOD + f'[dataverse]\nurl = "{url}"\n')


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://contoso.crm4.dynamics.com/api/data/v9.2", "leave it out: https://contoso.crm4.dynamics.com"),
        ("https://contoso.crm4.dynamics.com:70000", "a port out of range 70000; a port is a number from 1 to 65535"),
        ("https://contoso.crm4.dynamics.com:0", "a port out of range 0;"),
        ("contoso.crm4.dynamics.com", "not an absolute URL, but 'contoso.crm4.dynamics.com'"),
        ("https://ada:hush@contoso.crm4.dynamics.com", "but 'https://contoso.crm4.dynamics.com'"),
        ("https://contoso.crm4.dynamics.com?code=hush", "but 'https://contoso.crm4.dynamics.com'"),
        ("http://ada:hush@contoso.crm4.dynamics.com/hush", "but 'http://contoso.crm4.dynamics.com/"),
    ],
)
def test_the_error_of_a_dataverse_url_shows_it_without_its_secrets(nowhere: Path, url: str, expected: str) -> None:
    text = fault(nowhere, GOOD + f'[dataverse]\nurl = "{url}"\n')
    assert "dataverse.url" in text
    assert expected in text
    assert "ada" not in text
    assert ":hush" not in text
    assert "=hush" not in text
    queue = f'[[request_queues]]\nname = "a"\ndataverse_url = "{url}"\n'
    assert "request_queues: queue 'a': dataverse_url" in fault(nowhere, queue + GOOD)


def test_the_dataverse_url_of_the_emulator_may_have_a_path(nowhere: Path) -> None:
    text = GOOD + '[dataverse]\nurl = "http://127.0.0.1:5380/dataverse"\n'
    assert "dataverse.url is 'http://127.0.0.1:5380/dataverse'" in fault(nowhere, text)
    loaded(nowhere, 'plain_http_hosts = ["127.0.0.1:5380"]\n' + text)


def test_a_flow_url_with_a_port_out_of_range_is_not_repeated(nowhere: Path) -> None:
    text = fault(nowhere, GOOD.replace("powerplatform.com/", "powerplatform.com:70000/hush"))
    assert "flows.create-quote.url has a port out of range; a port is a number from 1 to 65535" in text
    assert "70000" not in text


@pytest.mark.parametrize(
    ("flow", "worker", "expected"),
    [
        ("", "[journal]\nretention_seconds = 172_799\n", "retry.max_age_seconds (86400) + "),
        ("", "[retry]\nmax_age_seconds = 604_800\n", "retry.max_age_seconds (604800) + "),
        ("", "[journal]\nmax_outage_seconds = 1_000_000\n", "journal.max_outage_seconds (1000000) = 1086400"),
        ("retry = { max_age_seconds = 600_000 }\n", "", "flows.create-quote.retry.max_age_seconds (600000) + "),
    ],
)
def test_the_journal_must_remember_every_request_that_can_still_arrive(
    nowhere: Path, flow: str, worker: str, expected: str
) -> None:
    text = fault(nowhere, GOOD + flow + worker)
    assert "journal.retention_seconds: " in text
    assert expected in text


def test_a_retention_as_long_as_the_longest_wait_is_enough(nowhere: Path) -> None:
    loaded(nowhere, GOOD + "[journal]\nretention_seconds = 172_800\n")
    loaded(
        nowhere, GOOD + "[journal]\nretention_seconds = 3600\nmax_outage_seconds = 0\n[retry]\nmax_age_seconds = 3600\n"
    )


def test_a_retention_of_unproven_dead_letters_that_cannot_hold_is_refused(nowhere: Path) -> None:
    short = "[journal]\nretention_seconds = 172_800\n"
    assert loaded(nowhere, GOOD + short).max_unproven_retention_seconds == 77_760
    loaded(nowhere, GOOD + short + "[dead_letters]\nunproven_retention_seconds = 77_760\n")
    text = fault(nowhere, GOOD + short + "[dead_letters]\nunproven_retention_seconds = 77_761\n")
    assert "dead_letters.unproven_retention_seconds: 77761 is more than 77760" in text
    assert "journal.retention_seconds (172800)" in text


def test_another_host_is_allowed_only_in_flow_hosts(nowhere: Path) -> None:
    here = GOOD.replace(FLOW_URL, "https://flows.contoso.example/x")
    assert "name the host in flow_hosts" in fault(nowhere, here)
    loaded(nowhere, 'flow_hosts = ["flows.contoso.example"]\n' + here)


def test_an_invalid_input_schema_is_refused(nowhere: Path) -> None:
    text = fault(nowhere, GOOD + 'input_schema = { type = "objekt" }\n')
    assert "flows.create-quote.input_schema" in text
    assert "not a JSON Schema at $.type" in text


def test_a_reference_out_of_an_input_schema_is_refused_with_its_place(nowhere: Path) -> None:
    for reference in ("http://192.0.2.1/s.json", "file:///etc/passwd", "#/$defs/missing"):
        text = fault(nowhere, GOOD + f'input_schema = {{ properties.a = {{ "$ref" = "{reference}" }} }}\n')
        assert "flows.create-quote.input_schema" in text
        assert f"$ref '{reference}' at $.properties.a leads to no part of this schema" in text


def test_the_echo_masks_every_secret(nowhere: Path) -> None:
    text = GOOD.replace(
        'namespace = "contoso.servicebus.windows.net"',
        'connection_string = "Endpoint=sb://x.example/;SharedAccessKeyName=n;SharedAccessKey=hush"',
    )
    settings = loaded(nowhere, text)
    for text in (str(settings.echo()), repr(settings), str(settings)):
        assert "hush" not in text
        assert "workflows/0123" not in text
    assert "shutdown_grace_seconds" in settings.echo()


def test_every_clouds_scope_keeps_both_slashes() -> None:
    for cloud in CLOUDS.values():
        assert cloud.flow_scope.endswith("//.default")
        assert cloud.flow_scope.startswith("https://")


# --- authorisation -----------------------------------------------------------------------------------------------

DATAVERSE = '\n[dataverse]\nurl = "https://contoso.crm4.dynamics.com"\n'
POSTS = f"""
[[request_queues]]
name = "dataverse-requests"
authority = "dataverse"
organization = "{TENANT}"
flows = {{ "Update:contact" = "create-quote" }}
"""


def test_every_flow_requires_a_role_or_a_privilege(nowhere: Path) -> None:
    assert "set role" in fault(nowhere, GOOD.replace('role = "Quotes.Create"', ""))


def test_a_privilege_requires_a_dataverse_organization(nowhere: Path) -> None:
    by_privilege = GOOD.replace('role = "Quotes.Create"', 'privilege = "prvCreatenew_quote"')
    assert "set dataverse.url" in fault(nowhere, by_privilege)
    flow = loaded(nowhere, by_privilege + DATAVERSE).flows["create-quote"]
    assert (flow.role, flow.privilege, flow.privilege_depth) == (None, "prvCreatenew_quote", "basic")


@pytest.mark.parametrize(
    "privilege",
    [
        "Createnew_quote",
        "prv",
        "prvX' or 1 eq 1",
        'prvX"',
        "prvX,prvY",
        "prvX)",
        "prv X",
        "prvX\u00e4",
        "prv/../x",
        "prvX?$top=1",
    ],
)
def test_a_privilege_name_that_could_change_the_query_is_refused(nowhere: Path, privilege: str) -> None:
    text = GOOD.replace('role = "Quotes.Create"', f"privilege = {json.dumps(privilege)}") + DATAVERSE
    assert "flows.create-quote.privilege" in fault(nowhere, text)


@pytest.mark.parametrize(
    "url",
    [
        "http://contoso.crm4.dynamics.com",
        "https://contoso.crm4.dynamics.com/",
        "https://user@contoso.crm4.dynamics.com",
        "https://contoso.crm4.dynamics.com?x=1",
        "https://contoso.crm4.dynamics.com?",
        "https://contoso.crm4.dynamics.com/api/data/v9.2",
        "https://@contoso.crm4.dynamics.com",
        "contoso.crm4.dynamics.com",
    ],
)
def test_the_dataverse_url_must_be_an_organizations_bare_url(nowhere: Path, url: str) -> None:
    text = GOOD + DATAVERSE.replace("https://contoso.crm4.dynamics.com", url)
    assert "dataverse.url" in fault(nowhere, text)


def test_a_dataverse_queue_requires_its_organization_and_its_flows(nowhere: Path) -> None:
    queue = loaded(nowhere, GOOD + POSTS).request_queues[0]
    assert (queue.authority, queue.organization) == ("dataverse", TENANT)
    assert "needs organization and flows" in fault(nowhere, GOOD + POSTS.replace(f'organization = "{TENANT}"', ""))
    assert "not one of the flows: create-quote" in fault(nowhere, GOOD + POSTS.replace('"create-quote"', '"another"'))
    assert "for the authority 'dataverse' only" in fault(nowhere, GOOD + POSTS.replace('authority = "dataverse"', ""))
    assert "not one of replies.queues: flow-replies" in fault(nowhere, GOOD + POSTS + 'reply_to = "elsewhere"\n')


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS512", "", "ES256"])
def test_an_algorithm_other_than_rsa_signatures_cannot_be_allowed(nowhere: Path, algorithm: str) -> None:
    text = GOOD.replace("[claims]", f'[claims]\nalgorithms = ["{algorithm}"]')
    assert "claims.algorithms" in fault(nowhere, text)


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        ("scopes", "access_as_user", ["api://flow-worker/access_as_user", "a b", "", " ", "a\\u00a0b"]),
        ("clients", TENANT.upper(), ["my-front-end", "", f"{{{TENANT}}}", f"api://{TENANT}"]),
    ],
)
def test_scopes_and_clients_have_the_form_that_tokens_have(
    nowhere: Path, setting: str, good: str, bad: list[str]
) -> None:
    text = GOOD.replace("[claims]", f'[claims]\n{setting} = ["VALUE"]')
    assert getattr(loaded(nowhere, text.replace("VALUE", good)).claims, setting) == (good.lower(),)
    for value in bad:
        assert f"claims.{setting}" in fault(nowhere, text.replace("VALUE", value))


def test_asserters_must_be_object_ids(nowhere: Path) -> None:
    text = GOOD.replace("[claims]", '[claims]\nasserters = ["my-plug-in"]')
    assert "claims.asserters" in fault(nowhere, text)


def test_a_flow_name_that_no_request_can_carry_is_refused(nowhere: Path) -> None:
    assert loaded(nowhere, GOOD.replace("create-quote", "a" * 128)).flows
    assert "has 129 characters" in fault(nowhere, GOOD.replace("create-quote", "a" * 129))
