"""What `run` and `gateway` have in common: the options of the log, and how the process ends."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flow_worker.cli import terminal

if TYPE_CHECKING:
    from flow_worker.runtime.supervisor import OnStop
    from flow_worker.settings import Settings
    from flow_worker.settings.gateway_process import GatewayProcess

_Loaded = TypeVar("_Loaded", "Settings", "GatewayProcess")


class LogLevel(StrEnum):
    """The values of `log.level`."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LogFormat(StrEnum):
    """The values of `log.format`."""

    TEXT = "text"
    JSON = "json"


Level = Annotated[
    LogLevel | None,
    typer.Option("--log-level", case_sensitive=False, help="The lowest level that is logged. Default: log.level."),
]
Format = Annotated[
    LogFormat | None,
    typer.Option("--log-format", case_sensitive=False, help="The form of a log line. Default: log.format."),
]


def with_log(loaded: _Loaded, level: LogLevel | None, form: LogFormat | None) -> _Loaded:
    """Return the settings with the log of the command line's options, which override every other source."""
    changes = {"level": level and level.value, "format": form and form.value}
    log = loaded.log.model_copy(update={name: value for name, value in changes.items() if value is not None})
    return loaded.model_copy(update={"log": log})


def run_until_stopped(
    process: Callable[[OnStop], Coroutine[Any, Any, None]], stop_seconds: float, log_failure: Callable[[], object]
) -> None:
    """Run the process until it stops. Exit with 2 for invalid settings, with 1 for another failure."""
    # Imported here: `--help` needs none of them.
    import asyncio

    from flow_worker.runtime.stop_deadline import StopDeadline
    from flow_worker.settings import InvalidSettings

    deadline = StopDeadline(stop_seconds)
    try:
        asyncio.run(process(deadline.start))
    except InvalidSettings as error:  # the start checks more than the settings themselves, such as queues and keys
        terminal.fail_settings(error)
    except OSError as error:  # mostly `CannotListen`, which names the port and its setting
        terminal.fail(str(error), 1)
    except Exception:  # noqa: BLE001 - Python would print the error's text, which may quote a request
        log_failure()
        raise typer.Exit(1) from None
    finally:
        deadline.cancel()
