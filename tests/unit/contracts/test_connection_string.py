"""An endpoint or a credential that cannot be used is named when the client is constructed, and no value is repeated."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from azure.core.credentials import AccessToken, AzureNamedKeyCredential
from pydantic import SecretStr

from flow_contracts.client import FlowClient, FlowClientSync
from flow_contracts.connection_string import InvalidConnectionString, parse_connection_string

START = "Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=k=="


class Blocking:
    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        raise NotImplementedError


class Asynchronous:
    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        raise NotImplementedError


ASYNCHRONOUS: Any = Asynchronous()  # it has no `close`, which the client does not need


@pytest.mark.parametrize(
    ("text", "transport", "is_emulator"),
    [
        (START, None, False),
        (START + ";", None, False),
        (f"  {START}\n", None, False),
        (f'"{START}"', None, False),
        (START.replace(";", " ; "), None, False),
        (START + ";TransportType=AmqpWebSockets", "websocket", False),
        (START + ";transporttype=amqp", "amqp", False),
        (START + ";TransportType=AmqpTcp", "amqp", False),
        (START + ";UseDevelopmentEmulator=True;", None, True),
        ("endpoint=SB://x/;sharedaccesssignature=SharedAccessSignature sr=x&sig=y&se=1&skn=z", None, False),
    ],
)
def test_the_parts_that_count_are_read_in_every_spelling(text: str, transport: str | None, is_emulator: bool) -> None:
    parts = parse_connection_string(text)
    assert (parts.transport, parts.is_emulator) == (transport, is_emulator)
    assert "TransportType" not in parts.text
    assert ("UseDevelopmentEmulator=true" in parts.text) is is_emulator
    assert "k==" not in repr(parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (START + ";EntityPath=hush", "for one entity"),
        (START + ";OperationTimeout=hush", "'OperationTimeout', which has no effect here; remove it"),
        (START + ";RuntimePort=hush", "'RuntimePort'"),
        (START + ";TransportType=hush", "TransportType must be Amqp or AmqpWebSockets"),
        (START + ";UseDevelopmentEmulator=hush", "must be true or false"),
        (START + ";SharedAccessKey=hush", "'SharedAccessKey' twice"),
        (START + ";SharedAccessSignature=hush", "keep one of the two"),
        (START + ";Authentication=Managed Identity", "give the namespace without"),
        (START + ";aHVzaGh1c2hodXNoaHVzaGh1c2hodXNoaHVzaGh1c2g=", "a part with an unknown name"),
        (START + ";hush", "name=value between semicolons"),
        ("HostName=hush.azure-devices.net;SharedAccessKey=hush", "IoT hub"),
        ("Endpoint=sb://;SharedAccessKeyName=n;SharedAccessKey=hush", "without a host"),
        ("Endpoint=https://hush/;SharedAccessKeyName=n;SharedAccessKey=hush", "Endpoint=sb://"),
        ("", "Endpoint=sb://"),
        ("hush", "Endpoint=sb://"),
    ],
)
def test_each_client_refuses_a_connection_string_that_it_cannot_use(text: str, expected: str) -> None:
    for make in (
        parse_connection_string,
        FlowClient.from_connection_string,
        FlowClientSync.from_connection_string,
    ):
        with pytest.raises(InvalidConnectionString, match=expected) as refusal:
            make(text)
        assert "hush" not in str(refusal.value)
        assert "aHVz" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("https://contoso.servicebus.windows.net", "write 'contoso.servicebus.windows.net'"),
        ("sb://contoso.servicebus.windows.net/", "write 'contoso.servicebus.windows.net'"),
        ("contoso.servicebus.windows.net/", "write 'contoso.servicebus.windows.net'"),
        ("contoso.servicebus.windows.net:5671", "write 'contoso.servicebus.windows.net'"),
        (" contoso.servicebus.windows.net ", "write 'contoso.servicebus.windows.net'"),
        ("contoso", "write 'contoso.servicebus.windows.net'"),
        ("https://contoso/", "write 'contoso.servicebus.windows.net'"),
        ("", "must be a host name"),
        ("con toso.servicebus.windows.net", "must be a host name"),
        (START, "from_connection_string"),
        (None, "not NoneType"),
    ],
)
def test_each_client_refuses_a_namespace_that_is_no_host_name(name: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        FlowClient(name, ASYNCHRONOUS)
    with pytest.raises(ValueError, match=expected) as refusal:
        FlowClientSync(name, Blocking())
    assert "k==" not in str(refusal.value)


HOST = "contoso.servicebus.windows.net"


@pytest.mark.parametrize(
    ("client", "credential", "expected"),
    [
        (FlowClient, Blocking(), "blocking Blocking.*azure.identity.aio.*or use FlowClientSync"),
        (FlowClientSync, Asynchronous(), "asynchronous Asynchronous.*or use FlowClient"),
        (FlowClient, None, "is None"),
        (FlowClientSync, "hush", "of type str"),
        (FlowClient, Asynchronous, "the class Asynchronous instead of an object"),
        (FlowClientSync, Blocking, "the class Blocking instead of an object"),
    ],
)
def test_a_credential_of_the_other_kind_is_named_with_the_remedy(client: Any, credential: Any, expected: str) -> None:
    with pytest.raises(TypeError, match=expected) as refusal:
        client(HOST, credential)
    assert "hush" not in str(refusal.value)


async def test_a_right_credential_and_a_key_are_accepted() -> None:
    await FlowClient(HOST, ASYNCHRONOUS).close()
    key: Any = AzureNamedKeyCredential("n", "k")
    await FlowClient(HOST, key, transport="websocket").close()


def test_a_right_credential_and_a_key_are_accepted_by_the_blocking_client() -> None:
    FlowClientSync(HOST, Blocking()).close()
    key: Any = AzureNamedKeyCredential("n", "k")
    FlowClientSync(HOST, key).close()


@pytest.mark.parametrize("named", ["Amqp", "AmqpWebSockets"])
def test_two_transports_are_refused(named: str) -> None:
    other: Any = "websocket" if named == "Amqp" else "amqp"
    with pytest.raises(ValueError, match="remove one of them"):
        FlowClient.from_connection_string(f"{START};TransportType={named}", transport=other)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("request_queue", "", "request_queue must be the name of a queue, such as 'flow-requests', but is empty"),
        ("request_queue", None, "request_queue .* is None"),
        ("reply_queue", 7, "reply_queue .* of type int"),
        ("request_queue", "hush b?", "request_queue is not the name of a queue: Service Bus allows"),
        ("reply_queue", "/hush", "with a letter or a digit at each end"),
        ("reply_queue", "hush\n", "reply_queue is not the name"),
        ("reply_queue", "hush\u00fc", "letters A to Z"),
        ("reply_queue", "r" * 300, "reply_queue has 300 characters; Service Bus allows 260"),
        ("transport", "ws", "transport must be 'amqp' or 'websocket'"),
        ("transport", "", "transport must be 'amqp' or 'websocket'"),
        ("senders", 0, "senders must be a whole number of at least 1"),
    ],
)
def test_each_client_refuses_an_option_that_service_bus_refuses_later(option: str, value: Any, expected: str) -> None:
    options: Any = {option: value}
    makers: list[Callable[[], object]] = [
        lambda: FlowClient(HOST, ASYNCHRONOUS, **options),
        lambda: FlowClientSync(HOST, Blocking(), **options),
        lambda: FlowClient.from_connection_string(START, **options),
        lambda: FlowClientSync.from_connection_string(START, **options),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=expected) as refusal:
            make()
        assert "hush" not in str(refusal.value)


@pytest.mark.parametrize("name", ["q", "A/b.c-d_e~f9", "q" * 260])
async def test_a_name_that_a_queue_can_have_is_accepted(name: str) -> None:
    client = FlowClient.from_connection_string(START, request_queue=name, reply_queue=name)
    with pytest.raises(ValueError, match="max_unclaimed"):
        client.background(max_unclaimed=0)
    await client.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "None, as of an environment variable that is not set; pass the namespace's connection string"),
        (START.encode(), "of type bytes; pass"),
        (SecretStr(START), "of type SecretStr; pass its get_secret_value"),
    ],
)
def test_each_client_says_what_to_pass_instead_of_another_type(text: Any, expected: str) -> None:
    for make in (FlowClient.from_connection_string, FlowClientSync.from_connection_string):
        with pytest.raises(InvalidConnectionString, match=expected) as refusal:
            make(text)
        assert "k==" not in str(refusal.value)


def test_the_clients_take_the_same_options() -> None:
    for name in ("__init__", "from_connection_string"):
        one, other = (inspect.signature(getattr(each, name)).parameters for each in (FlowClient, FlowClientSync))
        assert list(one) == list(other)
