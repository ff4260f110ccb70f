"""`$cbs`: a client puts its token here before it opens links."""

from __future__ import annotations

from emulator.amqp import Int
from emulator.servicebus.requests import Request, Response


def answer(request: Request) -> Response:
    """Accept a well-formed token. Which one it is, is read off its text: Python calls a SAS token a `jwt`."""
    if request.properties.get("operation") != "put-token":
        return _status(400, "the operation must be put-token")
    if not request.properties.get("name"):
        return _status(400, "the token's audience is missing: set 'name'")
    if not isinstance(request.body, str) or not _is_token(request.body):
        return _status(401, "neither a shared access signature nor a JSON web token")
    return _status(202, "Accepted")


def _is_token(text: str) -> bool:
    if text.startswith("SharedAccessSignature "):
        fields = dict(part.partition("=")[::2] for part in text.removeprefix("SharedAccessSignature ").split("&"))
        return all(fields.get(name) for name in ("sr", "sig", "se", "skn"))
    parts = text.split(".")
    return len(parts) == 3 and all(parts)


def _status(code: int, description: str) -> Response:
    return Response({"status-code": Int(code), "status-description": description})
