"""Calls the emulator's Web API over a socket, as its application user or as a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from servicebus_emulator.cloud.dataverse.directory import system_user_id
from servicebus_emulator.cloud.entra.issuer import TokenRequest
from servicebus_emulator.cloud.web import Web

Json = Any  # the type of httpx.Response.json()


class WebApi:
    """The Web API as one caller uses it: the worker's application user unless `user` names another."""

    def __init__(self, web: Web, client: httpx.AsyncClient, user: str | None = None) -> None:
        self.url = f"{web.dataverse_url}/api/data/v9.2"
        self._web = web
        self._client = client
        self._bearer = (
            web.tokens.for_managed_identity(web.dataverse_url, 600)
            if user is None
            else web.tokens.mint(TokenRequest(user=user, audience=web.dataverse_url))
        )

    async def __call__(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        json = {} if body is None else {"json": body}
        authorized = {"Authorization": f"Bearer {self._bearer}", **(headers or {})}
        return await self._client.request(method, f"{self.url}/{path}", headers=authorized, **json)  # type: ignore[arg-type]  # mypy takes the JSON for every parameter

    async def define(self, **patch: object) -> None:
        answer = await self._client.put(f"{self._web.url}/emulator/dataverse", json=patch)
        assert answer.status_code == 200, answer.text

    async def rows(self, table: str) -> list[dict[str, Json]]:
        rows: list[dict[str, Json]] = (
            await self._client.get(f"{self._web.url}/emulator/dataverse/rows/{table}")
        ).json()["rows"]
        return rows

    async def calls(self) -> list[dict[str, Json]]:
        answer = await self._client.get(f"{self._web.url}/emulator/dataverse/calls")
        calls: list[dict[str, Json]] = answer.json()["calls"]
        return calls

    def row_of(self, user: str) -> str:
        """Return a user's `systemuserid`."""
        users = self._web.dataverse.directory.definition.users
        return str(next(system_user_id(known) for known in users if known.name == user))


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return an error answer's status and code."""
    error = answer.json()["error"]
    assert error["message"]
    return answer.status_code, error["code"]
