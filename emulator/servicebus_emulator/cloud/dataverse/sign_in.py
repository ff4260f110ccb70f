"""Identifies the caller of the Web API: by a bearer token, or by the session cookie of a signed-in user.

The pages of an organization hold no token: the browser sends the session's cookie, which scripts cannot read. The name
of the cookie is Dataverse's; its value is the emulator's own.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from uuid import UUID

from aiohttp import web

from servicebus_emulator.cloud import urls
from servicebus_emulator.cloud.dataverse.web_api_errors import UNAUTHENTICATED, WebApiError
from servicebus_emulator.cloud.entra.issuer import Issuer
from servicebus_emulator.servicebus.access.entra import InvalidToken

COOKIE = "CrmOwinAuth"
_MAX_SESSIONS = 1000


class SignIn:
    """The sessions of one organization, and the check of its tokens."""

    def __init__(self, url: str, issuer: Issuer) -> None:
        """`url` is the audience of tokens for the organization."""
        self._url = url
        self._issuer = issuer
        self._sessions: OrderedDict[str, str] = OrderedDict()

    def object_id(self, request: web.Request) -> str:
        """Return the caller's object ID. Raise `WebApiError` without a valid token or session."""
        if "Authorization" not in request.headers and COOKIE in request.cookies:
            oid = self._sessions.get(request.cookies[COOKIE])
            if oid is None:
                raise WebApiError(401, UNAUTHENTICATED, "The session has ended. Sign in again.")
            return oid
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise WebApiError(401, UNAUTHENTICATED, "The request has no bearer token.")
        try:
            claims = self._issuer.verify(token)
        except InvalidToken as error:
            raise WebApiError(401, UNAUTHENTICATED, f"The bearer token is not valid: {error}.") from None
        if claims.get("aud") not in {self._url, f"{self._url}/"}:
            raise WebApiError(401, UNAUTHENTICATED, "The bearer token is for another audience.")
        return str(claims.get("oid", ""))

    def open_session(self, oid: UUID, response: web.Response) -> None:
        """Begin a session of a user, and set its cookie."""
        session = secrets.token_urlsafe(32)
        self._sessions[session] = str(oid)
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        response.set_cookie(COOKIE, session, path=urls.DATAVERSE_PATH, httponly=True, samesite="Strict")
