"""Custom APIs: a call is checked against a privilege, and a service endpoint posts it to a queue.

Source: Microsoft Learn, "Create and use Custom APIs" (`ExecutePrivilegeName`), "Azure integration" (sizes), "Work with
Dataverse data in your Azure solution" (asynchronous steps post again after an error, with the same `OperationId`).

A Custom API is registered with a service endpoint as a step. The step gives the caller nothing. A plug-in behind the
API can return the operation's `CorrelationId`, which the posted message carries as well: with it a form finds the row
of its request. A plug-in never learns the `OperationId` of the system job that posts later.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

from aiohttp import web
from pydantic import JsonValue

from servicebus_emulator.cloud.dataverse.custom_api_definitions import CustomApiDefinition, ParameterType
from servicebus_emulator.cloud.dataverse.directory import Directory
from servicebus_emulator.cloud.dataverse.execution_context import (
    NativeMessage,
    NativeMessageRequest,
    build,
    dotnet_date,
    open_entity,
)
from servicebus_emulator.cloud.dataverse.members import Rights
from servicebus_emulator.cloud.dataverse.parameters import parse_parameters
from servicebus_emulator.cloud.dataverse.payload import parse_time
from servicebus_emulator.cloud.dataverse.web_api_errors import WebApiError, empty_response, json_response
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.errors import ServiceBusError

Enqueue = Callable[[str, BrokeredMessage], object]
"""Puts a message on the queue of this name. Raises `ServiceBusError`."""

MAX_POST_BYTES = 192 * 1024
_POST_FAILED = "0x80050203"  # `ServiceBusPostFailed`; not confirmed by a document at hand
_RETRY_SECONDS = 1.0
_MAX_ATTEMPTS = 30
_log = logging.getLogger(__name__)


class CustomApis:
    """Carries out the calls of Custom APIs."""

    def __init__(self, api_url: str, directory: Callable[[], Directory], enqueue: Enqueue) -> None:
        self._url = api_url
        self._directory = directory
        self._enqueue = enqueue

    def find(self, segment: str) -> CustomApiDefinition | None:
        """Return the Custom API that a segment of a URL calls."""
        apis = self._directory().definition.custom_apis
        return next((api for api in apis if api.unique_name == segment), None)

    def call(self, api: CustomApiDefinition, rights: Rights, body: bytes) -> web.Response:
        """Check and carry out a call. Raise `WebApiError`."""
        if api.execute_privilege_name is not None:
            rights.require(api.execute_privilege_name)
        given = parse_parameters(api.unique_name, api.parameters, body)
        ids = {"correlation_id": uuid.uuid4(), "request_id": uuid.uuid4()}
        if api.queue is not None:
            message = self._message(api, rights, given, ids)
            if api.synchronous:
                self._post_now(api.queue, message)
            else:
                self._post_by_job(api.queue, message, api)
        if not api.responses:
            return empty_response()
        context = f"{self._url}/$metadata#Microsoft.Dynamics.CRM.{api.unique_name}Response"
        return json_response(
            {"@odata.context": context, **{name: str(ids[source]) for name, source in api.responses.items()}}
        )

    def _message(
        self,
        api: CustomApiDefinition,
        rights: Rights,
        given: Mapping[str, JsonValue],
        ids: Mapping[str, uuid.UUID],
    ) -> NativeMessage:
        user = rights.user
        types = {parameter.name: parameter.type for parameter in api.parameters}
        request = NativeMessageRequest(
            user=str(user.object_id),
            message=api.unique_name,
            input={name: _native(value, types[name]) for name, value in given.items()},
            # Both real samples with zeros come from system users. That application users have them too is likely.
            object_id="zeros" if user.application else "known",
            synchronous=api.synchronous,
            members={"InitiatingUserId": str(user.row), "UserId": str(user.row)},
            correlation_id=ids["correlation_id"],
            request_id=ids["request_id"],
        )
        message = build(request, self._directory())
        if len(message.body) > MAX_POST_BYTES:
            message = build(request.model_copy(update={"truncated": True}), self._directory())
        return message

    def _post_now(self, queue: str, message: NativeMessage) -> None:
        try:
            self._enqueue(queue, message.for_broker())
        except ServiceBusError as error:
            # No document shows the status of this answer.
            text = f"The service endpoint could not post to '{queue}': {error}"
            raise WebApiError(500, _POST_FAILED, text) from error

    def _post_by_job(self, queue: str, message: NativeMessage, api: CustomApiDefinition) -> None:
        for number in range(api.repeats + 1):
            delay = api.delay_seconds + number * _RETRY_SECONDS
            if delay == 0:
                self._attempt(queue, message, 1)
            else:
                asyncio.get_running_loop().call_later(delay, self._attempt, queue, message, 1)

    def _attempt(self, queue: str, message: NativeMessage, attempt: int) -> None:
        try:
            self._enqueue(queue, message.for_broker())
        except ServiceBusError as error:
            if attempt == _MAX_ATTEMPTS:
                _log.warning("A system job gives up its post to %s: %s", queue, error)
                return
            again = partial(self._attempt, queue, message, attempt + 1)
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, again)


def _native(value: JsonValue, type_: ParameterType) -> JsonValue:
    """Return a parameter as .NET's JSON serializer writes it."""
    if type_ == "DateTime" and isinstance(value, str):
        return dotnet_date(parse_time(value) or datetime.now(UTC))
    return open_entity(value) if type_ == "Entity" and isinstance(value, dict) else value
