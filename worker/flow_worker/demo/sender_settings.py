"""Writes the settings of a sender beside a kept demo: `sender.env` for shells, `sender.ps1` for PowerShell."""

from __future__ import annotations

from collections.abc import Mapping

from flow_worker.demo.environment import JOURNAL, ROLE, SETTINGS, DemoEnvironment
from flow_worker.demo.folder import write_private
from flow_worker.demo.gateway import KEY_FILE, STORE_FILE

SHELL, POWERSHELL = "sender.env", "sender.ps1"


def write_sender_settings(environment: DemoEnvironment) -> None:
    """Write both files, a claim included, readable by this user only."""
    variables = _variables(environment)
    write_private(environment.folder / SHELL, "".join(f"{name}={_sh(text)}\n" for name, text in variables.items()))
    lines = [f"$env:{name} = {_powershell(text)}\n" for name, text in variables.items()]
    write_private(environment.folder / POWERSHELL, "".join(lines))


def _variables(environment: DemoEnvironment) -> Mapping[str, str]:
    emulator, folder = environment.emulator, environment.folder
    return {
        "FLOW_WORKER_CONFIG": (folder / SETTINGS).as_posix(),
        "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": emulator.connection_string,
        "FLOW_WORKER_JOURNAL__PATH": (folder / JOURNAL).as_posix(),
        "FLOW_WORKER_STATEMENTS__KEY_PATH": (folder / KEY_FILE).as_posix(),
        "FLOW_WORKER_GATEWAY__STORE__PATH": (folder / STORE_FILE).as_posix(),
        "FLOW_WORKER_GATEWAY_URL": environment.gateway_url,
        "FLOW_WORKER_CLAIM": emulator.mint("ada", ROLE),
        # `check-access` asks Dataverse with the worker's identity: the emulator has it, not this machine.
        "IDENTITY_ENDPOINT": emulator.identity_endpoint,
        "IDENTITY_HEADER": emulator.identity_header,
    }


def _sh(text: str) -> str:
    """Quote a value for sh and for `--env-file`, whose parser knows no joined strings.

    In double quotes sh would replace variables. So they serve only for a path with an apostrophe.
    """
    return f'"{text}"' if "'" in text else f"'{text}'"


def _powershell(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
