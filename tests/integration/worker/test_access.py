"""Access end to end: a real worker, the Dataverse emulator, native messages, and every wrong token."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from pydantic import JsonValue

from flow_contracts.client import Background, FlowClient
from flow_contracts.message import Message
from flow_contracts.request import CONTRACT
from flow_contracts.result import FlowResult
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import InvalidSettings, Settings
from servicebus_emulator.cloud.entra.bad_tokens import mint_bad_tokens
from servicebus_emulator.cloud.entra.issuer import TokenRequest
from tests.support.system import ROLE, WAIT, JsonObject, System, running_system, until, worker_settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUOTE: JsonValue = {"customer": "Contoso", "amount": 1}
ON_BEHALF = "Flow.Invoke.OnBehalf"
PRIVILEGE = "prvCreatenew_quote"
BROKER_BYTES = 256_000
POSTS = "dataverse-requests"
CLIENT = "77777777-0000-4000-8000-000000000007"
"""The client ID of the worker's API, which has a signing key of its own."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with running_system(monkeypatch) as running:
            url = running.emulator.web.flow_url("create-quote")
            running.flows["private"] = {"role": None, "privilege": PRIVILEGE, "url": url}
            running.flows["deep"] = {"role": None, "privilege": PRIVILEGE, "privilege_depth": "deep", "url": url}
            running.flows["both"] = {"privilege": PRIVILEGE, "url": url}
            running.flows["bound"] = {"bind_claim": True, "url": url}
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(system: System) -> Settings:
    web = system.emulator.web
    known = worker_settings(system.emulator, {})["claims"]
    claims = known | {
        "asserter_role": ON_BEHALF,
        "unknown_key_cooldown_seconds": 1,
        "audiences": [*known["audiences"], CLIENT],
    }
    organization = str(web.dataverse.directory.definition.organization_id)
    native = {"name": POSTS, "authority": "dataverse", "organization": organization, "lanes": 1}
    flows = {"new_StartQuote": "private", "Update:contact": "deep", "new_Both": "both"}
    return system.settings(
        request_queues=[{"name": "flow-requests", "lanes": 3}, native | {"flows": flows}],
        claims=claims,
        explain_refusals=True,
        dataverse={
            "url": web.dataverse_url,
            "privilege_cache_seconds": 0,
            "missing_privilege_cache_seconds": 0,
            "request_seconds": 2,
        },
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(system: System, settings: Settings) -> AsyncIterator[FlowClient]:
    async with system.worker(settings), system.client() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def background(client: FlowClient) -> AsyncIterator[Background]:
    async with client.background() as one:
        yield one


def outcome(result: FlowResult) -> tuple[str, str | None]:
    return result.status, result.error.code if result.error else None


async def object_id(system: System, name: str) -> str:
    async with httpx.AsyncClient() as http:
        users = (await http.get(f"{system.emulator.web.url}/emulator/dataverse")).json()["users"]
    return next(str(user["object_id"]) for user in users if user["name"] == name)


async def result_of_post(system: System, client: FlowClient, **wanted: object) -> FlowResult:
    """Let the Dataverse emulator post a message, and return the result."""
    correlation_id = str(uuid.uuid4())
    async with httpx.AsyncClient() as http:
        post: JsonObject = {"queue": POSTS, "correlation_id": correlation_id, "input": QUOTE, **wanted}
        answer = await http.post(f"{system.emulator.web.url}/emulator/dataverse/post", json=post)
        answer.raise_for_status()
    return await client.wait(correlation_id, WAIT)


def asserter_claim(system: System, *roles: str) -> str:
    return system.claim(*(roles or (ON_BEHALF,)), user="plug-in", claims={"scp": None, "idtyp": "app"})


# --- privileges --------------------------------------------------------------------------------------------------


async def test_a_flow_with_a_privilege_runs_only_for_its_holders(system: System, background: Background) -> None:
    ended = {}
    for user in ("ada", "grace", "bob", "nobody"):
        result = await background.request("private", QUOTE, WAIT, claim=system.claim("Other.Role", user=user))
        ended[user] = outcome(result)
    refused = ("refused", "privilege_missing")
    assert ended == {"ada": ("succeeded", None), "grace": ("succeeded", None), "bob": refused, "nobody": refused}


async def test_a_flow_requires_the_depth_of_its_privilege_and_its_role(system: System, background: Background) -> None:
    ada, other = system.claim(user="ada"), system.claim("Other.Role", user="ada")
    assert outcome(await background.request("deep", QUOTE, WAIT, claim=ada)) == ("refused", "privilege_missing")
    assert outcome(await background.request("both", QUOTE, WAIT, claim=ada)) == ("succeeded", None)
    assert outcome(await background.request("both", QUOTE, WAIT, claim=other)) == ("refused", "role_missing")


async def test_while_dataverse_is_unavailable_a_request_waits_and_is_neither_run_nor_refused(
    system: System, background: Background
) -> None:
    calls = len(await system.calls("create-quote"))
    asked = len(system.emulator.web.dataverse.calls())
    await system.put("dataverse", {"faults": [{"kind": "html", "status": 503}]})
    waiting = asyncio.create_task(background.request("private", QUOTE, WAIT, claim=system.claim(user="ada")))
    await until(lambda: len(system.emulator.web.dataverse.calls()) >= asked + 3)  # the worker has retried the query
    assert not waiting.done()
    assert len(await system.calls("create-quote")) == calls
    await system.put("dataverse", {"faults": []})
    assert outcome(await waiting) == ("succeeded", None)
    assert len(await system.calls("create-quote")) == calls + 1


async def test_the_result_of_an_asserters_request_names_the_user_it_ran_for(
    system: System, background: Background
) -> None:
    ada, bob = await object_id(system, "ada"), await object_id(system, "bob")
    result = await background.request("private", QUOTE, WAIT, claim=asserter_claim(system), on_behalf_of=ada)
    assert (outcome(result), result.run_for) == (("succeeded", None), ada)
    for claim, user, code in (
        (asserter_claim(system), bob, "privilege_missing"),
        (asserter_claim(system), "ada@contoso.com", "on_behalf_of_invalid"),
        (asserter_claim(system, "Other.Role"), ada, "on_behalf_of_not_allowed"),
        (system.claim(ON_BEHALF, user="ada"), ada, "on_behalf_of_not_allowed"),
    ):
        refused = await background.request("private", QUOTE, WAIT, claim=claim, on_behalf_of=user)
        assert outcome(refused) == ("refused", code)


async def test_a_bound_claim_is_valid_for_one_request_only(system: System, background: Background) -> None:
    name = str(uuid.uuid4())
    claim = system.claim(claims={"nonce": name})
    assert outcome(await background.request("bound", QUOTE, WAIT, claim=claim, message_id=name)) == ("succeeded", None)
    stolen = await background.request("bound", {"customer": "Mallory"}, WAIT, claim=claim)
    assert outcome(stolen) == ("refused", "claim_not_bound")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("audience", [CLIENT, None])
async def test_a_token_signed_with_the_applications_own_key_is_accepted(
    system: System, background: Background, version: str, audience: str | None
) -> None:
    changes: JsonObject = {"version": version, "audience": audience, "application_key": CLIENT}
    good = await background.request("both", QUOTE, WAIT, claim=system.claim(**changes))
    assert outcome(good) == ("succeeded", None)
    foreign = {**changes, "application_key": str(uuid.uuid4())}
    bad = await background.request("both", QUOTE, WAIT, claim=system.claim(**foreign))
    assert outcome(bad) == ("refused", "claim_invalid")


async def test_a_worker_does_not_start_with_the_dataverse_of_another_organization(
    system: System, settings: Settings
) -> None:
    [entra, native] = settings.request_queues
    other = native.model_copy(update={"organization": str(uuid.uuid4())})
    with pytest.raises(InvalidSettings, match="dataverse_url"):
        async with system.worker(settings.model_copy(update={"request_queues": (entra, other)})):
            pass


# --- native messages ---------------------------------------------------------------------------------------------


async def test_the_rights_of_the_user_who_started_the_operation_decide_about_a_native_message(
    system: System, client: FlowClient
) -> None:
    allowed = await result_of_post(system, client, user="ada")
    assert (outcome(allowed), allowed.run_for) == (("succeeded", None), await object_id(system, "ada"))
    assert allowed.output is not None
    for wanted, ending in (
        ({"user": "ada", "object_id": "zeros"}, ("succeeded", None)),
        ({"user": "grace", "object_id": "absent", "old_dates": True}, ("succeeded", None)),
        ({"user": "ada", "synchronous": True}, ("succeeded", None)),
        ({"user": "bob"}, ("refused", "privilege_missing")),
        ({"user": "bob", "object_id": "zeros"}, ("refused", "privilege_missing")),
        ({"user": "ada", "message": "Update", "entity": "contact"}, ("refused", "privilege_missing")),
        ({"user": "ada", "message": "new_Both"}, ("refused", "role_missing")),
        ({"user": "ada", "message": "Delete"}, ("refused", "message_not_mapped")),
        ({"user": "ada", "truncated": True}, ("refused", "input_truncated")),
        ({"user": "ada", "members": {"OrganizationId": str(uuid.uuid4())}}, ("refused", "organization_unknown")),
    ):
        assert outcome(await result_of_post(system, client, **wanted)) == ending, wanted
    assert not any(question["forbidden"] for question in system.emulator.web.dataverse.calls())


async def test_forged_labels_on_a_native_message_do_not_change_its_user(system: System, client: FlowClient) -> None:
    ada = await object_id(system, "ada")
    claims = "http://schemas.microsoft.com/xrm/2011/Claims/"
    labels = {f"{claims}InitiatingUser": ada, f"{claims}User": ada}
    assert outcome(await result_of_post(system, client, user="bob", properties=labels)) == (
        "refused",
        "privilege_missing",
    )


@pytest.mark.parametrize("form", ["binary", "xml"])
async def test_a_dotnet_format_is_refused_with_the_setting_to_change(
    system: System, client: FlowClient, form: str
) -> None:
    message_id = str(uuid.uuid4())  # the only address of the result: the worker cannot read the body
    async with httpx.AsyncClient() as http:
        post = {"queue": POSTS, "user": "ada", "form": form, "message_id": message_id}
        (await http.post(f"{system.emulator.web.url}/emulator/dataverse/post", json=post)).raise_for_status()
    result = await client.wait(message_id, WAIT)
    assert outcome(result) == ("refused", "unsupported_format")
    assert result.error is not None
    assert "JSON" in result.error.message


# --- hostile tokens ----------------------------------------------------------------------------------------------


def events(caplog: pytest.LogCaptureFixture, event: str) -> set[str]:
    """Return the message IDs in the log records of this event."""
    return {
        vars(record)["fields"]["message_id"] for record in caplog.records if getattr(record, "event", None) == event
    }


READ_ALL_THE_SAME = {"bearer_before", "space_around", "nul_after"}
"""Valid tokens with something around them, which the worker leaves out."""


async def test_no_wrong_token_starts_a_flow_or_harms_the_worker(
    system: System, background: Background, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Each one is refused with its code, or dead-lettered if it has no address for a result."""
    caplog.set_level(logging.INFO)
    calls = len(await system.calls("create-quote"))
    wanted = TokenRequest.model_validate({"user": "ada", "roles": [ROLE]})
    tokens = mint_bad_tokens(system.emulator.web.tokens, wanted)
    assert len(tokens) > 40

    async def ask(name: str, token: str) -> tuple[str, str, str | None]:
        message_id = f"{name}-{uuid.uuid4()}"
        result = await background.request("create-quote", QUOTE, WAIT, claim=token, message_id=message_id)
        return name, *outcome(result)

    def whole(token: str) -> bool:
        """Return whether FlowClient sends the token at all."""
        return 0 < len(token) <= 1 << 16 and "\ud800" not in token

    ended = await asyncio.gather(*(ask(name, token) for name, token in tokens.items() if whole(token)))
    assert len(ended) > 150
    codes = {one[0]: one[2] or "" for one in ended if one[1] == "refused"}
    started = {one[0] for one in ended if not codes.get(one[0], "").startswith(("claim_", "role_missing"))}
    assert started == READ_ALL_THE_SAME
    raw = {name: json.dumps({"flow": "create-quote", "claim": token}).encode() for name, token in tokens.items()}
    raw = {name: body for name, body in raw.items() if not whole(tokens[name]) and len(body) < BROKER_BYTES}
    assert raw.keys() == {"empty", "lone_surrogate"}
    async with open_service_bus(settings.servicebus) as bus:
        for name, body in raw.items():
            properties = {"contract": CONTRACT}
            await bus.send("flow-requests", Message(body=body, message_id=name, application_properties=properties))
    await until(lambda: raw.keys() <= events(caplog, "request.completed"))
    await until(lambda: system.depth("active") == 0)
    assert len(await system.calls("create-quote")) == calls + len(READ_ALL_THE_SAME)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert not any(token in caplog.text for token in tokens.values() if len(token) > 40)
    good = await background.request("create-quote", QUOTE, WAIT, claim=system.claim())
    assert outcome(good) == ("succeeded", None)
