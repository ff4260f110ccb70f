"""The IDs of rows and notifications: they follow from the request, so that a repeated write creates no second one."""

from __future__ import annotations

import json
import uuid

from flow_worker.delivery.port import Asker

ROW_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:flow-worker:row")
"""c67bed8d-dbe4-5568-93a0-a712f4ed7ff3"""
_NOTIFICATION_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:flow-worker:notification")


def row_id(request_id: str) -> str:
    """Return the ID of a request's row: a UUIDv5 of the request's message ID, which a client can compute too.

    A replay has a message ID of its own, and the row of the original.
    """
    return str(uuid.uuid5(ROW_NAMESPACE, _encodable(request_id)))


def notification_id(message_id: str, state: str, asker: Asker) -> str:
    """Return the ID of the notification about one state of one request.

    The user is a part of it: another sender may use the same message ID, and gets a refusal. Its notification must not
    take the place of the first sender's.
    """
    key = json.dumps([message_id, state, asker.oid, None if asker.oid else asker.system_user])
    return str(uuid.uuid5(_NOTIFICATION_NAMESPACE, key))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
