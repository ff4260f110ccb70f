"""An organization without a network: it answers as the test says, and records what it was asked."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from flow_contracts.result import FlowResult, Status, Times
from flow_worker.dataverse.client import DataverseClient
from flow_worker.dataverse.request_budget import RequestBudget
from flow_worker.delivery.organization import Organization, Organizations
from flow_worker.delivery.port import Asker, Delivered, Delivery
from flow_worker.delivery.users import Users

URL = "https://contoso.crm4.dynamics.com"
QUEUE = "flow-requests"
OID = "6b4e2f0a-5d1c-4b3a-9f8e-7d6c5b4a3f21"
ROW = "a1b2c3d4-0000-4000-8000-00000000ada1"
OWN_ROW = "a1b2c3d4-0000-4000-8000-00000000f10e"
NOW = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)

CREATED = Delivered(is_new=True)

Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


@dataclass
class ScriptedDataverse:
    """Answers with the scripted answers in turn, and then with 204 to a write."""

    answers: deque[Answer] = field(default_factory=deque)
    requests: list[httpx.Request] = field(default_factory=list)
    users: dict[str, str] = field(default_factory=lambda: {OID: ROW})
    owner: str = OWN_ROW
    tokens: list[bool] = field(default_factory=list)
    """For each token that was asked for: whether it had to be fresh."""
    now: datetime = NOW
    max_requests: int = 1000
    clients: list[DataverseClient] = field(default_factory=list)

    async def token(self, *, fresh: bool = False) -> str:
        self.tokens.append(fresh)
        return "bearer-of-the-worker"

    def script(self, *answers: Answer) -> None:
        self.answers.extend(answers)

    def client(self) -> DataverseClient:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self._answer), follow_redirects=False)
        budget = RequestBudget(self.max_requests, lambda: self.now)
        client = DataverseClient(http, URL, self, request_seconds=5, now=lambda: self.now, budget=budget)
        self.clients.append(client)
        return client

    def organizations(self, url: str | None = None) -> Organizations:
        client = self.client()
        users = Users(client, lambda: self.now)
        home = {QUEUE: URL}
        return Organizations({URL: Organization(client, users), url or URL: Organization(client, users)}, home, url)

    @property
    def writes(self) -> list[httpx.Request]:
        return [request for request in self.requests if request.method != "GET"]

    def content(self, number: int = -1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.writes[number].content)
        return found

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path.removeprefix("/api/data/v9.2")
        if request.method == "GET":
            return self._get(path, request)
        answer = self.answers.popleft() if self.answers else httpx.Response(204)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def _get(self, path: str, request: httpx.Request) -> httpx.Response:
        if path == "/WhoAmI":
            return httpx.Response(200, json={"UserId": OWN_ROW})
        if path == "/systemusers":
            oid = request.url.params["$filter"].rpartition(" ")[2]
            rows = [{"systemuserid": self.users[oid], "isdisabled": False}] if oid in self.users else []
            return httpx.Response(200, json={"value": rows})
        return httpx.Response(200, json={"_ownerid_value": self.owner})


def error(status: int, code: str = "0x0", message: str = "no", **headers: str) -> httpx.Response:
    """Return an error answer of Dataverse."""
    return httpx.Response(status, json={"error": {"code": code, "message": message}}, headers=headers)


def result(status: Status = Status.SUCCEEDED, **changes: Any) -> FlowResult:
    """Return a result of the request `m-1`."""
    values: dict[str, Any] = {
        "status": status,
        "flow": "create-quote",
        "attempts": 1,
        "times": Times(accepted=NOW, started=NOW, finished=NOW),
        "correlation_id": "c-1",
        "request_message_id": "m-1",
    }
    return FlowResult.model_construct(**(FlowResult.model_construct(**values).__dict__ | changes))


def delivery(found: FlowResult | None = None, **changes: Any) -> Delivery:
    """Return the delivery of the request `m-1`: of its result, or without one while it is pending."""
    values: dict[str, Any] = {
        "sink": "rows",
        "message_id": "m-1",
        "correlation_id": "c-1",
        "flow": "create-quote",
        "request_queue": QUEUE,
        "asker": Asker("tenant", OID),
        "accepted": NOW,
        "state": "pending" if found is None else "ended",
        "result": found,
        "is_owner": found is not None,
    }
    return Delivery(**(values | changes))
