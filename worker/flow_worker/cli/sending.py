"""The sender's side of the command line: post one request, look for one result, through `FlowClient`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import JsonValue, SecretStr

from flow_contracts.client import FlowClient, MessageTooLarge, ResultTimeout, ServiceBusFailure
from flow_contracts.request import InvalidRequest
from flow_contracts.result import FlowResult, InvalidResult
from flow_worker.azure_identity import credential_for
from flow_worker.settings import Layered, ReplySettings, RequestQueue, ServiceBusSettings, load_as


class SenderError(Exception):
    """What the user asked for cannot be done; the message says what to change."""


class SenderSettings(Layered):
    """The part of the worker's settings that a sender shares, and the claim it sends."""

    servicebus: ServiceBusSettings
    request_queues: tuple[RequestQueue, ...] = (RequestQueue(name="flow-requests"),)
    replies: ReplySettings = ReplySettings()
    claim: SecretStr | None = None


def load(config: Path | None, env_file: Path) -> SenderSettings:
    """Read the sender's settings. Raises `InvalidSettings`."""
    return load_as(SenderSettings, config, env_file)


async def send(
    settings: SenderSettings, flow: str, value: JsonValue, correlation_id: str | None, wait_seconds: float
) -> tuple[str, FlowResult | None]:
    """Post a request; its correlation ID, and its result if one came within `wait_seconds`. Raises `SenderError`."""
    try:
        async with _client(settings) as client:
            sent = await client.submit(flow, value, claim=settings.claim, correlation_id=correlation_id)
            return sent, await _waited(client, sent, wait_seconds) if wait_seconds > 0 else None
    except (ServiceBusFailure, InvalidRequest, InvalidResult, MessageTooLarge) as error:
        raise SenderError(str(error)) from error


async def result(
    settings: SenderSettings, correlation_id: str, wait_seconds: float, *, take: bool
) -> FlowResult | None:
    """The result of a request, None if there is none (yet). Raises `SenderError`."""
    try:
        async with _client(settings) as client:
            if take:
                return await client.take(correlation_id, timeout=wait_seconds)
            if wait_seconds > 0:
                return await _waited(client, correlation_id, wait_seconds)
            return await client.poll(correlation_id)
    except (ServiceBusFailure, InvalidResult) as error:
        raise SenderError(str(error)) from error


def parse_input(fields: list[str], whole: str | None) -> JsonValue:
    """The input from `name=text`/`name:=json` fields, or from `--input` JSON, `@FILE` or `-`. Raises `SenderError`."""
    if whole is not None and fields:
        raise SenderError("give the input either as fields or as --input, not both")
    if whole is not None:
        return _json(_text(whole), "--input")
    return dict(_field(field) for field in fields) if fields else None


def _field(field: str) -> tuple[str, JsonValue]:
    name, equals, value = field.partition("=")
    if not equals or not name.rstrip(":"):
        raise SenderError(f"'{field}' is no input field; write name=text or name:=json")
    return (name[:-1], _json(value, name[:-1])) if name.endswith(":") else (name, value)


def _text(whole: str) -> str:
    try:
        if whole == "-":
            return sys.stdin.read()
        return Path(whole[1:]).read_text(encoding="utf-8") if whole.startswith("@") else whole
    except (OSError, UnicodeDecodeError) as error:
        raise SenderError(f"--input {whole}: {error}") from None


def _json(text: str, what: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(text)
    except ValueError as error:
        raise SenderError(f"{what} is not JSON: {error}") from None
    except RecursionError:
        raise SenderError(f"{what} is nested too deeply; a request's input may have 100 levels") from None
    return value


def _client(settings: SenderSettings) -> FlowClient:
    bus = settings.servicebus
    requests, replies = settings.request_queues[0].name, settings.replies.default_queue
    if bus.connection_string:
        secret = bus.connection_string.get_secret_value()
        return FlowClient.from_connection_string(secret, request_queue=requests, reply_queue=replies)
    credential = credential_for(bus)
    if bus.namespace is None or credential is None:
        raise SenderError("neither a connection string nor a namespace is set")
    return FlowClient(bus.namespace, credential, request_queue=requests, reply_queue=replies)


async def _waited(client: FlowClient, correlation_id: str, seconds: float) -> FlowResult | None:
    try:
        return await client.wait(correlation_id, timeout=seconds)
    except ResultTimeout:
        return None
