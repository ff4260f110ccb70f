"""Shared access policies of a queue through the administration client."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from azure.core.exceptions import HttpResponseError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.exceptions import ServiceBusAuthenticationError, ServiceBusAuthorizationError
from azure.servicebus.management import AccessRights, AuthorizationRule, QueueProperties

from servicebus_emulator import config
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from tests.integration.emulator.test_admin import PlainAioTransport

UNAUTHORIZED = (ServiceBusAuthenticationError, ServiceBusAuthorizationError)
KEY = base64.b64encode(b"k" * 32).decode()
CONFIGURED = {
    "Name": "configured",
    "AuthorizationRules": [{"KeyName": "portal", "Rights": ["Send"], "PrimaryKey": "of-the-file"}],
}


@dataclass(frozen=True)
class Namespace:
    emulator: Emulator
    admin: ServiceBusAdministrationClient

    def client(self, policy: str, key: str) -> ServiceBusClient:
        address = self.emulator.connection_string.partition(";")[0]
        text = f"{address};SharedAccessKeyName={policy};SharedAccessKey={key};UseDevelopmentEmulator=true"
        return ServiceBusClient.from_connection_string(text, retry_total=0)

    async def sends(self, queue: str, policy: str, key: str) -> bool:
        """Return True if a sender can use the queue with this key."""
        async with self.client(policy, key) as client:
            try:
                async with client.get_queue_sender(queue) as sender:
                    await sender.send_messages(ServiceBusMessage("x"))
            except UNAUTHORIZED:
                return False
            return True

    async def receives(self, queue: str, policy: str, key: str) -> bool:
        """Return True if a receiver can use the queue with this key."""
        async with self.client(policy, key) as client:
            try:
                async with client.get_queue_receiver(queue) as receiver:
                    await receiver.peek_messages()
            except UNAUTHORIZED:
                return False
            return True


@pytest.fixture
async def namespace() -> AsyncIterator[Namespace]:
    document = json.dumps({"UserConfig": {"Namespaces": [{"Name": "ns", "Queues": [CONFIGURED]}]}})
    async with running_emulator(config.parse(document), Endpoints("127.0.0.1", 0, 0, admin_port=0)) as emulator:
        host = (emulator.admin_url or "").removeprefix("http://")
        text = f"Endpoint=sb://{host};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE"
        async with ServiceBusAdministrationClient.from_connection_string(
            text, transport=PlainAioTransport(), retry_total=0
        ) as admin:
            yield Namespace(emulator, admin)


def rule(name: str, *rights: AccessRights, key: str | None = KEY) -> AuthorizationRule:
    return AuthorizationRule(
        type="SharedAccessAuthorizationRule",
        claim_type="SharedAccessKey",
        claim_value="None",
        key_name=name,
        rights=list(rights),
        primary_key=key,
    )


def rights_by_policy(queue: QueueProperties) -> dict[str, list[str]]:
    return {
        str(one.key_name): [str(getattr(right, "value", right)) for right in one.rights or []]
        for one in queue.authorization_rules or []
    }


async def test_a_created_policy_gives_its_rights_and_no_others(namespace: Namespace) -> None:
    rules = [rule("portal", AccessRights.SEND), rule("desk", AccessRights.LISTEN)]
    made = await namespace.admin.create_queue("made", authorization_rules=rules)
    assert (
        rights_by_policy(made)
        == rights_by_policy(await namespace.admin.get_queue("made"))
        == {"portal": ["Send"], "desk": ["Listen"]}
    )
    assert await namespace.sends("made", "portal", KEY)
    assert not await namespace.receives("made", "portal", KEY)
    assert await namespace.receives("made", "desk", KEY)
    assert not await namespace.sends("made", "desk", KEY)
    assert not await namespace.sends("configured", "portal", KEY)


async def test_a_configured_policy_is_returned_with_its_key(namespace: Namespace) -> None:
    queue = await namespace.admin.get_queue("configured")
    assert rights_by_policy(queue) == {"portal": ["Send"]}
    assert [one.primary_key for one in queue.authorization_rules or []] == ["of-the-file"]
    assert await namespace.sends("configured", "portal", "of-the-file")


async def test_an_update_replaces_the_policies_and_one_without_policies_removes_them(namespace: Namespace) -> None:
    queue = await namespace.admin.get_queue("configured")
    queue.authorization_rules = [rule("desk", AccessRights.MANAGE, AccessRights.LISTEN, AccessRights.SEND)]
    await namespace.admin.update_queue(queue)
    assert not await namespace.sends("configured", "portal", "of-the-file")
    assert await namespace.sends("configured", "desk", KEY)
    queue.authorization_rules = []
    await namespace.admin.update_queue(queue)
    assert rights_by_policy(await namespace.admin.get_queue("configured")) == {}
    assert not await namespace.sends("configured", "desk", KEY)


async def test_missing_keys_are_generated(namespace: Namespace) -> None:
    made = await namespace.admin.create_queue("made", authorization_rules=[rule("p", AccessRights.SEND, key=None)])
    (only,) = made.authorization_rules or []
    assert only.primary_key != only.secondary_key
    assert await namespace.sends("made", "p", str(only.primary_key))
    assert await namespace.sends("made", "p", str(only.secondary_key))


async def test_the_policies_of_a_deleted_queue_give_no_right_over_a_new_one(namespace: Namespace) -> None:
    await namespace.admin.create_queue("made", authorization_rules=[rule("p", AccessRights.SEND)])
    await namespace.admin.delete_queue("made")
    await namespace.admin.create_queue("made")
    assert not await namespace.sends("made", "p", KEY)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ([rule("", AccessRights.SEND)], "KeyName: is required"),
        ([rule("p")], "Rights: must be one or more of Send, Listen, Manage"),
        ([rule("p", AccessRights.SEND), rule("P", AccessRights.LISTEN)], "there are two policies named 'p'"),
        ([rule(f"p{number}", AccessRights.SEND) for number in range(13)], "there are 13 policies; 12 are allowed"),
        ([rule("p", AccessRights.SEND, key="k" * 257)], "PrimaryKey: must be a text of at most 256 characters"),
    ],
)
async def test_invalid_policies_are_rejected_and_create_nothing(
    namespace: Namespace, rules: list[AuthorizationRule], reason: str
) -> None:
    with pytest.raises(HttpResponseError, match=f"AuthorizationRules: {reason}") as refused:
        await namespace.admin.create_queue("made", authorization_rules=rules)
    assert refused.value.status_code == 400
    assert "made" not in [one.name async for one in namespace.admin.list_queues()]
