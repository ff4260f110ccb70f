"""Each queue has its Dataverse organization, and only the organization that sends to a queue decides for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import pytest_asyncio

from flow_worker.access.build import Access, build_access, verify_organizations
from flow_worker.access.principal import Principal
from flow_worker.access.privileges import DataversePrivileges, OrganizationPrivileges, PrivilegeCacheTimes
from flow_worker.access.rights import Asserters, QueuePrivileges, Rights
from flow_worker.access.user import User
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.dataverse.client import DataverseClient
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.privilege import Depth
from flow_worker.flows.registry import Flow
from flow_worker.settings import InvalidSettings, Settings

A, B = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"
URLS = {A: "https://contoso.crm4.dynamics.com", B: "https://contoso-test.crm4.dynamics.com"}
ROW = "11111111-2222-3333-4444-555555555555"
NATIVE = Principal(A, "", "user", frozenset(), "dataverse", system_user=ROW)
FLOW = Flow("quote", "https://flow.example/", None, 1.0, idempotent=False, privilege="prvCreatenew_quote")


class Tokens:
    async def token(self, *, fresh: bool = False) -> str:
        return "bearer"


@dataclass
class Organization:
    """A Dataverse behind httpx's mock transport, with a clock that the test sets."""

    id: object = A
    status: int = 200
    holds: bool = True
    now: datetime = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)  # as over a network: other callers run meanwhile
        self.asked.append(request.url.path.rpartition("/")[2].partition("(")[0])
        if self.status != 200:
            return httpx.Response(self.status)
        if request.url.path.endswith("/WhoAmI"):
            return httpx.Response(200, json={"OrganizationId": self.id, "UserId": ROW})
        rows = [{"PrivilegeName": FLOW.privilege, "Depth": "Global"}] if self.holds else []
        return httpx.Response(200, json={"RolePrivileges": rows})

    def privileges(self) -> DataversePrivileges:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        client = DataverseClient(http, URLS[A], Tokens(), request_seconds=5, now=lambda: self.now)
        return DataversePrivileges(client, PrivilegeCacheTimes(0, 0), max_concurrent_queries=8, now=lambda: self.now)


async def test_the_organization_is_asked_once_an_hour_and_shared_by_concurrent_callers() -> None:
    organization = Organization(id=A.upper())
    privileges = OrganizationPrivileges(organization.privileges(), A)
    user = User(None, ROW)
    depths = await asyncio.gather(*(privileges.depth(user, "prvCreatenew_quote") for _ in range(9)))
    assert set(depths) == {Depth.GLOBAL}
    assert organization.asked.count("WhoAmI") == 1
    organization.now += timedelta(hours=1)
    organization.id = B  # an administrator gave the URL to another organization
    with pytest.raises(TemporarilyUnavailable) as mismatch:
        await privileges.depth(user, "prvCreatenew_quote")
    assert mismatch.value.code == "dataverse_organization_mismatch"
    assert organization.asked[-1] == "WhoAmI", "the other organization is not asked for the user"


@pytest.mark.parametrize("found", [None, True, 5, "", "contoso", f"{{{A}}}", [A], {"id": A}])
async def test_an_answer_without_an_organization_is_neither_a_yes_nor_a_no(found: object) -> None:
    with pytest.raises(TemporarilyUnavailable):
        await OrganizationPrivileges(Organization(id=found).privileges(), A).depth(User(ROW), "prvCreatenew_quote")


async def test_requests_wait_until_the_organization_could_be_asked() -> None:
    organization = Organization(status=503)
    privileges = OrganizationPrivileges(organization.privileges(), A)
    for _ in range(2):
        with pytest.raises(TemporarilyUnavailable):
            await privileges.depth(User(ROW), "prvCreatenew_quote")
    organization.status = 200
    assert await privileges.depth(User(ROW), "prvCreatenew_quote") is Depth.GLOBAL


async def test_the_queue_of_a_request_selects_the_organization_that_decides() -> None:
    """A sandbox copy has the same row IDs, so the wrong organization could hold the privilege."""
    production, copy = Organization(id=A, holds=False), Organization(id=B, holds=True)
    rights = Rights(
        Asserters(),
        copy.privileges(),
        of_queues={
            "production": QueuePrivileges(OrganizationPrivileges(production.privileges(), A)),
            "copy": QueuePrivileges(OrganizationPrivileges(copy.privileges(), B)),
            "none": QueuePrivileges(None),
        },
    )
    await rights.of("copy").require(NATIVE, FLOW)
    for queue in ("production", "none"):
        with pytest.raises(Refused):
            await rights.of(queue).require(NATIVE, FLOW)
    with pytest.raises(TemporarilyUnavailable) as unknown:
        await rights.of("removed").require(NATIVE, FLOW)
    assert unknown.value.code == "request_queue_unknown"


# --- the settings, and the comparison at start -------------------------------------------------------------------


def settings(*, default: str | None, queues: dict[str, str | None]) -> Settings:
    """Return settings with one Dataverse queue per organization; the values are the queues' own URLs."""
    native = [
        {"name": f"dataverse-{id_[0]}", "authority": "dataverse", "organization": id_, "flows": {"Update": "quote"}}
        | ({} if url is None else {"dataverse_url": url})
        for id_, url in queues.items()
    ]
    return Settings.model_validate(
        {
            "servicebus": {"namespace": "contoso.servicebus.windows.net"},
            "claims": {"tenants": [ROW], "audiences": ["api://flow-worker"]},
            "dataverse": {} if default is None else {"url": default},
            "request_queues": [{"name": "flow-requests"}, *native],
            "flows": {
                "quote": {
                    "url": "https://a.bc.environment.api.powerplatform.com/powerautomate/x",
                    "privilege": "prvCreatenew_quote",
                }
            },
        }
    )


@pytest_asyncio.fixture
async def identity() -> AsyncIterator[ManagedIdentity]:
    async with ManagedIdentity(client_id=None, deadline_seconds=1) as one:
        yield one


def answering(access: Access, organizations: dict[str, Organization]) -> Access:
    """Replace the organizations of an access by stand-ins, by URL."""
    stand_ins = {url: organizations[url].privileges() for url in access.organizations}
    return Access(access.authorities, access.entra, access.rights, access.registry, stand_ins)


async def test_a_queue_of_another_organization_than_its_url_stops_the_start(identity: ManagedIdentity) -> None:
    one = settings(default=URLS[A], queues={A: None, B: None})
    organizations = {URLS[A]: Organization(id=A)}
    async with build_access(one, identity) as access:
        with pytest.raises(InvalidSettings, match=f"'dataverse-b' is for the organization {B}.*{A}.*dataverse_url"):
            await verify_organizations(one, answering(access, organizations))


async def test_each_queue_is_compared_with_its_own_url(identity: ManagedIdentity) -> None:
    one = settings(default=URLS[A], queues={A: None, B: URLS[B]})
    organizations = {URLS[A]: Organization(id=A), URLS[B]: Organization(id=B)}
    async with build_access(one, identity) as access:
        await verify_organizations(one, answering(access, organizations))
    assert [organization.asked for organization in organizations.values()] == [["WhoAmI"], ["WhoAmI"]]


async def test_an_unavailable_dataverse_does_not_stop_the_start(
    identity: ManagedIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    one = settings(default=URLS[A], queues={A: None})
    async with build_access(one, identity) as access:
        await verify_organizations(one, answering(access, {URLS[A]: Organization(status=503)}))
    assert [vars(record)["event"] for record in caplog.records] == ["dataverse.organization_unverified"]


def test_a_queue_needs_an_organization_for_its_privileges() -> None:
    assert settings(default=None, queues={A: URLS[A]}).dataverse_urls == (URLS[A],)
    assert settings(default=URLS[A], queues={B: URLS[B]}).dataverse_urls == (URLS[B], URLS[A])
    with pytest.raises(ValueError, match=r"set dataverse\.url"):
        settings(default=None, queues={A: None})
    with pytest.raises(ValueError, match="'dataverse-b' has none"):
        settings(default=None, queues={A: URLS[A], B: None})


@pytest.mark.parametrize("url", ["http://contoso.crm4.dynamics.com", f"{URLS[A]}/", "contoso", ""])
def test_a_queues_url_is_an_organizations_bare_url(url: str) -> None:
    with pytest.raises(ValueError, match="dataverse"):
        settings(default=None, queues={A: url})


async def test_a_continuation_of_the_queues_former_organization_is_refused() -> None:
    organization = Organization(id=B)
    source = QueuePrivileges(OrganizationPrivileges(organization.privileges(), B), organization=B)
    with pytest.raises(Refused) as refused:
        await Rights(Asserters(), None, of_queues={"native": source}).of("native").require(NATIVE, FLOW)
    assert refused.value.code == "organization_unknown"
    assert organization.asked == []


async def test_a_refusal_queries_only_privileges_of_its_own_organization() -> None:
    """No document says what Dataverse answers for a privilege that it does not know."""
    here, there = Organization(id=A), Organization(id=B)
    rights = Rights(
        Asserters(),
        None,
        of_queues={
            "here": QueuePrivileges(here.privileges(), ["prvHere"]),
            "there": QueuePrivileges(there.privileges(), []),
        },
    )
    application = Principal(A, ROW, "app", frozenset(), "entra")
    with pytest.raises(TemporarilyUnavailable, match="another privilege"):  # the stand-in answers for another one
        await rights.of("here").query_any(NATIVE, "nothing")
    await rights.of("there").query_any(NATIVE, "nothing")
    await rights.of("here").query_any(application, "nothing")
    assert (len(here.asked), there.asked) == (1, [])
