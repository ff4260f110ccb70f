"""`flow-worker check-access`: explain whether a sender may start a flow."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flow_worker.cli import terminal
from flow_worker.cli.terminal import AsJson, Config, EnvFile

if TYPE_CHECKING:
    from pydantic import JsonValue, SecretStr

    from flow_worker.cli.access_explanation import AccessExplanation, StepOutcome

_CLAIM = "FLOW_WORKER_CLAIM"
_EXIT_STATUSES: dict[StepOutcome, int] = {"allowed": 0, "refused": 1, "not known": 3}


def check_access(
    flow: Annotated[str, typer.Option("--flow", help="The flow's name.")],
    token: Annotated[
        str | None, typer.Option("--token", help=f"The sender's claim; - reads stdin. Default: ${_CLAIM}.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="Instead of a token: the Entra object ID of a user.")
    ] = None,
    on_behalf_of: Annotated[
        str | None, typer.Option("--on-behalf-of", help="Object ID of the user whom the sender names.")
    ] = None,
    queue: Annotated[
        str | None,
        typer.Option("--queue", help="The request queue. Default: the first one with a Dataverse."),
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    env_file: EnvFile = None,
) -> None:
    """Explain step by step whether a sender may start a flow, without calling the flow.

    Exit with 0 if the sender may, with 1 if the worker would refuse, with 3 if a step cannot be decided now.
    """
    # Imported here: it needs the worker's authorization, which `send` does not.
    import asyncio

    from flow_worker import settings
    from flow_worker.cli import access_render
    from flow_worker.cli.access_explanation import AccessQuestion, UnknownQueue, explain
    from flow_worker.settings import InvalidSettings

    try:
        loaded = settings.load(config, env_file)  # first: the file of variables may hold the claim
        question = AccessQuestion(flow, _claim(token, user), _object_id("--user", user), on_behalf_of, queue)
        explanation = asyncio.run(explain(loaded, question))
    except InvalidSettings as error:
        terminal.fail_settings(error)
    except UnknownQueue as error:
        terminal.fail(f"--queue must be one of the request queues: {error}.", 2)
    if as_json:
        terminal.echo(terminal.json_text(_document(explanation), indent=2))
    else:
        access_render.print_explanation(terminal.out(), explanation)
    raise typer.Exit(_EXIT_STATUSES[explanation.outcome])


def _claim(token: str | None, user: str | None) -> SecretStr | None:
    from pydantic import SecretStr

    from flow_worker.cli import inputs

    if user is not None:
        if token is not None:
            terminal.fail("Give --token or --user, not both: the token already names its user.", 2)
        return None
    origin = "--token" if token else _CLAIM
    try:
        if token == "-":  # noqa: S105 - the option's value for stdin
            token, origin = inputs.read_stdin(), "stdin"
        claim = inputs.claim_of(token or os.environ.get(_CLAIM) or "", origin)
    except inputs.UnusableInput as error:
        terminal.fail(str(error), 2)
    if not claim:
        terminal.fail(f"The sender is missing. Give --token (or set {_CLAIM}), or --user.", 2)
    return SecretStr(claim)


def _object_id(option: str, value: str | None) -> str | None:
    from flow_contracts.guid import NotGuid, parse_typed_guid

    if value is None:
        return None
    try:
        return parse_typed_guid(value)
    except NotGuid:
        terminal.fail(f"{option} must be an Entra object ID, such as 11111111-2222-3333-4444-555555555555.", 2)


def _document(explanation: AccessExplanation) -> dict[str, JsonValue]:
    return {
        "flow": explanation.flow,
        "queue": explanation.queue,
        "outcome": explanation.outcome,
        "code": explanation.deciding_step.code,
        "sender_code": explanation.deciding_step.sender_code,
        "steps": [asdict(step) for step in explanation.steps],
    }
