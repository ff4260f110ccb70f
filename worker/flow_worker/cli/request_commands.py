"""Carries out `flow-worker send` and `result`: posts one request, polls for one result."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import typer
from pydantic import JsonValue, SecretStr

from flow_contracts.client import FlowClient, MessageTooLarge, ResultTimeout, ServiceBusFailure, new_reply_key
from flow_contracts.reply_key import ReplyKey
from flow_contracts.request import InvalidRequest
from flow_contracts.result import FlowResult, InvalidResult
from flow_contracts.servicebus import Deadlines, ServiceBusUnavailable
from flow_worker.cli import inputs, terminal
from flow_worker.cli.send_hints import (
    SenderClaims,
    SenderContinuations,
    connecting_hint,
    failure_text,
    ignored_hint,
    no_claim_hint,
    where_is,
)
from flow_worker.settings import (
    InvalidSettings,
    Layered,
    ReplySettings,
    RequestQueue,
    ServiceBusSettings,
    load_as,
)

_PAUSE_SECONDS = 0.5
_MAX_INPUT_LEVELS = 100
"""The contract's limit on nesting, for the error message."""
_UNVERIFIED = (
    "The result is not verified: any sender to the reply queue can have made it. Set FLOW_WORKER_REPLY_KEY to the "
    "reply key of the request."
)


class SenderError(Exception):
    """The command cannot do its work; the message says what to change."""


class SenderSettings(Layered):
    """The part of the worker's settings that a sender needs, and its secrets."""

    servicebus: ServiceBusSettings
    request_queues: tuple[RequestQueue, ...] = (RequestQueue(name="flow-requests"),)
    replies: ReplySettings = ReplySettings()
    continuations: SenderContinuations = SenderContinuations()
    claims: SenderClaims = SenderClaims()
    claim: SecretStr | None = None
    reply_key: ReplyKey | None = None


def send(
    flow: str,
    fields: list[str],
    input_: str | None,
    *,
    correlation_id: str | None,
    wait: float,
    connect: float,
    as_json: bool,
    config: Path | None,
    env_file: Path | None,
) -> None:
    """Post a request and print its correlation ID; with `wait`, print the result and exit with its status."""
    try:
        value = parse_input(fields, input_)
        settings = load_as(SenderSettings, config, env_file)
        key = settings.reply_key or new_reply_key()
        if settings.claim is None:
            terminal.echo(no_claim_hint(settings.claims.audiences), to_stderr=True)
        message_id = str(uuid.uuid4())
        request = _Request(flow, value, message_id, correlation_id, key)
        sent_id, flow_result = asyncio.run(_send(settings, request, wait, connect))
    except (InvalidSettings, SenderError) as error:
        terminal.fail(str(error), 2)
    in_json = as_json and wait == 0
    if in_json:
        terminal.echo(
            terminal.json_text(
                {"correlation_id": sent_id, "message_id": message_id, "reply_key": key.get_secret_value()}
            )
        )
    elif wait == 0:
        # On stdout is only what `result` needs: `flow-worker result $(flow-worker send …)`.
        terminal.echo(sent_id)
        terminal.echo(f"Message ID: {message_id}", to_stderr=True)
    if flow_result is None and not in_json and settings.reply_key is None:
        terminal.echo(key_hint(key, on_terminal=sys.stderr.isatty()), to_stderr=True)
    if wait > 0:
        if flow_result is None:
            requests, continuations = settings.request_queues[0].name, settings.continuations.queue
            terminal.echo(asyncio.run(where_is(settings.servicebus, requests, continuations, sent_id)), to_stderr=True)
        _print_result(flow_result, sent_id, as_json=as_json)


def key_hint(key: SecretStr, *, on_terminal: bool) -> str:
    """Return the line that says how a later `result` verifies the result of a request with a new key."""
    if on_terminal:
        return (
            f"To verify the result later, set FLOW_WORKER_REPLY_KEY={key.get_secret_value()} for `flow-worker result`."
        )
    # Not the key: a log may keep stderr.
    return (
        "The reply key is not printed here, so `flow-worker result` cannot verify the result. Use --json without "
        "--wait, which prints the key, or set FLOW_WORKER_REPLY_KEY for both commands."
    )


def result(
    correlation_id: str,
    *,
    wait: float,
    take: bool,
    connect: float,
    as_json: bool,
    config: Path | None,
    env_file: Path | None,
) -> None:
    """Print a result and exit with its status; exit with 3 if there is none."""
    try:
        settings = load_as(SenderSettings, config, env_file)
        flow_result, ignored = asyncio.run(_receive(settings, correlation_id, wait, connect, take=take))
    except (InvalidSettings, SenderError) as error:
        terminal.fail(str(error), 2)
    if flow_result is not None and settings.reply_key is None:
        terminal.echo(_UNVERIFIED, to_stderr=True)
    if ignored:
        terminal.echo(ignored_hint(ignored), to_stderr=True)
    _print_result(flow_result, correlation_id, as_json=as_json)


def _print_result(flow_result: FlowResult | None, correlation_id: str, *, as_json: bool) -> None:
    if flow_result is None:
        terminal.fail(f"There is no result for {correlation_id} yet.", 3)
    document = flow_result.model_dump(mode="json", exclude_none=True)
    if as_json or not sys.stdout.isatty():
        terminal.echo(terminal.json_text(document))
    else:
        # The run's ID leads to the run; the other headers are for support of the platform.
        document.get("run", {}).pop("tracking", None)
        terminal.print_json(terminal.out(), document)
    raise typer.Exit(0 if flow_result.status == "succeeded" else 1)


@dataclass(frozen=True, slots=True)
class _Request:
    """What `send` posts."""

    flow: str
    input: JsonValue = field(repr=False)
    message_id: str
    correlation_id: str | None
    reply_key: SecretStr


async def _send(
    settings: SenderSettings, request: _Request, wait_seconds: float, connect_seconds: float
) -> tuple[str, FlowResult | None]:
    """Post a request; return its correlation ID, and the result if it arrives in time. Raise `SenderError`."""
    try:
        async with _client(settings, connect_seconds) as client:
            with connecting_hint(settings.servicebus.address):
                sent_id = await client.submit(
                    request.flow,
                    request.input,
                    claim=_claim(settings.claim),
                    message_id=request.message_id,
                    correlation_id=request.correlation_id,
                    reply_key=request.reply_key,
                )
            found = None
            if wait_seconds > 0:
                # Before the wait, which Ctrl-C may end. Stdout is for the result, which a program may parse.
                terminal.echo(f"Correlation ID: {sent_id}", to_stderr=True)
                terminal.echo(f"Message ID: {request.message_id}", to_stderr=True)
                with suppress(ServiceBusUnavailable):  # the request was sent, and `where_is` meets the failure too
                    found = await _wait(client, sent_id, wait_seconds)
            return sent_id, found
    except (ServiceBusFailure, InvalidRequest, InvalidResult, MessageTooLarge) as error:
        raise SenderError(failure_text(error, settings.servicebus.address, connect_seconds)) from error


def _claim(claim: SecretStr | None) -> SecretStr | None:
    try:
        return claim and SecretStr(inputs.claim_of(claim.get_secret_value(), "FLOW_WORKER_CLAIM"))
    except inputs.UnusableInput as error:
        raise SenderError(str(error)) from None


async def _receive(
    settings: SenderSettings, correlation_id: str, wait_seconds: float, connect_seconds: float, *, take: bool
) -> tuple[FlowResult | None, int]:
    """Return the result of a request, and the number of ignored messages. Raise `SenderError`.

    The result is None if it does not arrive in time.
    """
    try:
        async with _client(settings, connect_seconds) as client:
            key = settings.reply_key
            with connecting_hint(settings.servicebus.address):
                found = None if take else await _poll(client, correlation_id, connect_seconds, key)
            if take:
                found = await client.take(correlation_id, timeout=wait_seconds, reply_key=key)
            elif found is None and wait_seconds > 0:
                found = await _wait(client, correlation_id, wait_seconds, key)
            return found, client.rejected_results
    except (ServiceBusFailure, InvalidResult) as error:
        raise SenderError(failure_text(error, settings.servicebus.address, connect_seconds)) from error


async def _poll(
    client: FlowClient, correlation_id: str, connect_seconds: float, reply_key: SecretStr | None
) -> FlowResult | None:
    """Poll once Service Bus answers. Raises `ServiceBusFailure` if it does not answer in time."""
    now = asyncio.get_running_loop().time
    ends = now() + connect_seconds
    while True:
        try:
            return await client.poll(correlation_id, reply_key=reply_key)
        except ServiceBusUnavailable:
            if now() + _PAUSE_SECONDS >= ends:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


async def _wait(
    client: FlowClient, correlation_id: str, seconds: float, reply_key: SecretStr | None = None
) -> FlowResult | None:
    """Return the result; None if none came. Raises `ServiceBusFailure` if there may be one that cannot be read."""
    try:
        return await client.wait(correlation_id, timeout=seconds, reply_key=reply_key)
    except ResultTimeout as timeout:
        if isinstance(timeout.failure, ServiceBusFailure):
            raise timeout.failure from None
        return None


def _client(settings: SenderSettings, connect_seconds: float) -> FlowClient:
    bus = settings.servicebus
    requests, replies = settings.request_queues[0].name, settings.replies.default_queue
    # A person waits: the client's own deadlines are for programs.
    deadlines = Deadlines(open_seconds=connect_seconds, send_seconds=connect_seconds)
    if bus.connection_string:
        secret = bus.connection_string.get_secret_value()
        return FlowClient.from_connection_string(
            secret, request_queue=requests, reply_queue=replies, transport=bus.transport, deadlines=deadlines
        )
    from flow_worker.azure_identity import credential_for  # imported here: a connection string needs no azure-identity

    credential = credential_for(bus)
    if bus.namespace is None or credential is None:
        raise SenderError("Set servicebus.connection_string or servicebus.namespace: neither is set.")
    return FlowClient(
        bus.namespace,
        credential,
        request_queue=requests,
        reply_queue=replies,
        transport=bus.transport,
        deadlines=deadlines,
    )


def parse_input(fields: list[str], whole: str | None) -> JsonValue:
    """Return the input from `name=text` and `name:=json` fields, or from the option `--input`. Raise `SenderError`.

    `whole` is JSON, `@FILE`, or `-` for stdin.
    """
    if whole is not None and fields:
        raise SenderError("Give the input either as fields or as --input, not both.")
    if whole is not None:
        return _parse_json(_read(whole), "--input")
    return dict(_parse_field(field) for field in fields) if fields else None


def _parse_field(field: str) -> tuple[str, JsonValue]:
    name, equals, value = field.partition("=")
    if not equals or not name.rstrip(":"):
        raise SenderError(f"'{field}' is no input field; write name=text or name:=json.")
    return (name[:-1], _parse_json(value, name[:-1])) if name.endswith(":") else (name, value)


def _read(whole: str) -> str:
    try:
        if whole == "-":
            return inputs.read_stdin()
        return inputs.read_file(Path(whole[1:])) if whole.startswith("@") else whole.removeprefix("\ufeff")
    except inputs.UnusableInput as error:
        raise SenderError(f"--input {whole}: {error}") from None


def _parse_json(text: str, origin: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(text)
    except ValueError as error:
        raise SenderError(f"{origin} is not JSON: {error}") from None
    except RecursionError:
        raise SenderError(f"{origin} is nested too deeply; an input may have {_MAX_INPUT_LEVELS} levels.") from None
    return value
