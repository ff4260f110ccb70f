"""The web resources of the organization: files such as form scripts, at the origin of the Web API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from aiohttp import web

MAX_BYTES = 5 * 1024 * 1024
"""The default limit of a web resource's size (Microsoft Learn, "Web resources")."""
MEDIA_TYPES: Mapping[str, str] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".xml": "text/xml",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
}
"""The kinds of web resources."""


class WebResources:
    """The files by name."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def put(self, name: str, content: bytes) -> None:
        """Add or replace a file. Raise `ValueError` for a kind or a size that Dataverse refuses."""
        if _kind(name) not in MEDIA_TYPES:
            raise ValueError(f"The web resource '{name[:100]}' must end in one of {', '.join(MEDIA_TYPES)}.")
        if len(content) > MAX_BYTES:
            raise ValueError(f"The web resource has {len(content)} bytes, more than {MAX_BYTES}.")
        self._files[name] = content

    async def answer(self, request: web.Request) -> web.Response:
        """Answer `GET {url}/WebResources/{name}`."""
        name = request.match_info["name"]
        content = self._files.get(name)
        if content is None:
            return web.Response(status=404, text="There is no such web resource.")
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        media_type = MEDIA_TYPES[_kind(name)]
        return web.Response(
            body=content,
            content_type=media_type,
            charset="utf-8" if media_type.startswith("text/") else None,
            headers=headers,
        )


def _kind(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
