"""Checks the variables `OTEL_…` before the SDK reads them.

The SDK raises for some bad values, and ignores others in silence. The specification asks for a warning, and for the
default.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, MutableMapping
from typing import TypeVar

from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_OTLP = ("OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES", "OTEL_EXPORTER_OTLP_METRICS")
_BATCH, _QUEUE = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_MAX_QUEUE_SIZE"
_DEFAULT_BATCH, _DEFAULT_QUEUE = 512, 2048

_COUNTS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
)
_POSITIVE_COUNTS = (_BATCH, _QUEUE, "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT")
_DURATIONS = ("OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT", *(f"{one}_TIMEOUT" for one in _OTLP))
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "OTEL_SDK_DISABLED": ("true", "false"),
    "OTEL_METRICS_EXEMPLAR_FILTER": ("always_off", "always_on", "trace_based"),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": ("cumulative", "delta", "lowmemory"),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
        "explicit_bucket_histogram",
        "base2_exponential_bucket_histogram",
    ),
    **{f"{one}_PROTOCOL": ("http/protobuf",) for one in _OTLP},
    **{f"{one}_COMPRESSION": ("gzip", "deflate", "none") for one in _OTLP},
}
_PROPAGATORS = ("tracecontext", "baggage")

# The SDK's line quotes a header that it cannot read, and the header may hold a key.
logging.getLogger("opentelemetry.util.re").setLevel(logging.ERROR)


def drop_unreadable(environment: MutableMapping[str, str]) -> None:
    """Remove each value that the SDK cannot read, so that it takes the default. Log the variable, without the value."""
    for name in [name for name, value in environment.items() if name.startswith("OTEL_") and not value.strip()]:
        del environment[name]  # the same as no variable by the specification; the SDK and the API complain about some
    for name in _COUNTS:
        _require(environment, name, lambda text: int(text) >= 0, "an integer of 0 or more")
    for name in _POSITIVE_COUNTS:
        _require(environment, name, lambda text: int(text) > 0, "an integer above 0")
    for name in _DURATIONS:
        _require(environment, name, lambda text: 0 < float(text) < math.inf, "a number above 0")
    for name, choices in _CHOICES.items():
        _require(environment, name, _is_one_of(choices), " or ".join(choices))
    _fit_batches(environment)
    for name in (f"{one}_HEADERS" for one in _OTLP):
        if not all(map(_is_header, filter(None, map(str.strip, environment.get(name, "").split(","))))):
            _report(name, "pairs 'name=value' with commas between them; the worker ignores the others")
    propagators = environment.get("OTEL_PROPAGATORS", "").lower().split(",")
    if not all(one.strip() in ("", *_PROPAGATORS) for one in propagators):
        _report("OTEL_PROPAGATORS", "tracecontext: messages carry no other context")


def provider(get: Callable[[], _T], environment: MutableMapping[str, str], variable: str) -> _T:
    """Return the global provider. The API raises if the variable names one that is not installed."""
    try:
        return get()
    except Exception:  # noqa: BLE001 - a provider is somebody's code, and StopIteration means that there is none
        environment.pop(variable, None)
        _report(variable, "the name of a provider that is installed")
        return get()


def _require(
    environment: MutableMapping[str, str], name: str, is_readable: Callable[[str], bool], allowed: str
) -> None:
    text = environment.get(name, "").strip()
    if not text:
        return
    try:
        readable = is_readable(text)
    except ValueError:
        readable = False
    if not readable:
        del environment[name]
        _report(name, allowed)


def _fit_batches(environment: MutableMapping[str, str]) -> None:
    """Let no batch be larger than the queue: the SDK would not start the exporter."""
    queue, batch = environment.get(_QUEUE), environment.get(_BATCH)
    if queue and int(queue) < int(batch or _DEFAULT_BATCH):
        environment[_BATCH] = queue
        if batch:
            _report(_BATCH, f"at most {_QUEUE}")
    elif batch and not queue and int(batch) > _DEFAULT_QUEUE:
        environment[_QUEUE] = batch


def _report(name: str, allowed: str) -> None:
    sentence = f"{name} has a value that the worker cannot use, so it takes the default. Use {allowed}."
    log(_log, logging.WARNING, "telemetry.variable_ignored", sentence, variable=name)


def _is_one_of(choices: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda text: text.lower() in choices


def _is_header(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and bool(name.strip()) and not set(name.strip()) & set(' ":;')
