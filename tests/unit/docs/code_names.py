"""Names for programs that the code contains: result codes, log events, audit fields. Read from the syntax trees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flow_worker.settings import DataverseSettings, DeliverySettings, FlowSettings, RequestQueue, Settings
from flow_worker.telemetry import conventions, metrics
from flow_worker.telemetry.instruments import Definition
from tests.unit.docs.pages import ROOT

WORKER = ROOT / "worker" / "flow_worker"
CONTRACTS = ROOT / "contracts" / "flow_contracts"
EMULATOR = ROOT / "emulator" / "servicebus_emulator"
_EXAMPLES = CONTRACTS / "schema"
"""Example messages: they document the models and report nothing."""
AUDIT_LOGGER = "flow_worker.audit"
_EVENT = re.compile(r"[a-z_]+\.[a-z_]+")
_CODE = re.compile(r"[a-z]+(?:_[a-z]+)*")
_CONTROL_PATH = re.compile(r"/emulator/[\w/{}]+")
_FILE_SUFFIXES = (".env", ".json", ".log", ".toml")


@cache
def _trees(*folders: Path) -> tuple[ast.Module, ...]:
    files = sorted({path for folder in folders for path in folder.rglob("*.py")} - set(_EXAMPLES.rglob("*.py")))
    return tuple(_tree(path) for path in files)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def setting_names() -> set[str]:
    """Return the path of each setting, such as `servicebus.namespace`."""
    return {name for name, _ in setting_fields()}


def setting_fields(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the path and the field of each setting."""
    tables: dict[str, type[BaseModel]] = {
        "request_queues": RequestQueue,
        "flows": FlowSettings,
        "dataverse": DataverseSettings,
        "delivery": DeliverySettings,
    }
    for name, field in model.model_fields.items():
        below: object = tables.get(name, field.annotation) if model is Settings else field.annotation
        if isinstance(below, type) and issubclass(below, BaseModel):
            yield from setting_fields(below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def delivery_codes() -> set[str]:
    """Return the constants that are codes of failed deliveries."""
    constants = dict(pair for tree in _trees(WORKER) for pair in _assigned(tree))
    calls = (call for tree in _trees(WORKER / "delivery") for call in _calls(tree))
    failures = (call for call in calls if _callee(call) in {"RetryLater", "GiveUp"})
    return {code for call in failures for argument in call.args[:1] for code in _resolved(argument, constants)}


def _classes(path: Path) -> set[str]:
    return {node.name for node in _tree(path).body if isinstance(node, ast.ClassDef)}


def log_events() -> set[str]:
    """Return the dotted constants that worker and contracts pass to calls, except names of other kinds."""
    dotted = {
        text
        for tree in _trees(WORKER, CONTRACTS)
        for call in _calls(tree)
        if _callee(call) not in {"getLogger", "with_name", "Definition"}
        for argument in (*call.args, *(keyword.value for keyword in call.keywords))
        for text in _texts(argument)
        if _EVENT.fullmatch(text) and not text.endswith(_FILE_SUFFIXES)
    }
    attributes = {value for value in vars(conventions).values() if isinstance(value, str)}
    return dotted - setting_names() - attributes


def result_codes() -> set[str]:
    """Return every constant that reaches a parameter, field or key named `code` of something a result reports.

    A parameter counts wherever it is: a callee is known by its name, and its position by its definition.
    """
    trees = _trees(WORKER, CONTRACTS)
    constants = dict(pair for tree in trees for pair in _assigned(tree))
    positions = {name: index for tree in trees for name, index in _code_parameters(tree)}
    # An outcome's own code appears only in the log. A result's code is in its `FlowError`.
    # The same holds for the attempts of a delivery, whose codes `delivery_codes` returns.
    outcomes = _classes(WORKER / "pipeline" / "outcome.py") | _classes(WORKER / "delivery" / "port.py")
    found: set[str] = set()
    for tree in trees:
        for call in _calls(tree):
            callee = _callee(call)
            if callee is None or callee in outcomes or callee.startswith(("_log", "_say", "log")):
                continue
            found |= _code_arguments(call, positions.get(callee), constants)
        found |= {
            value
            for name, value in _assigned(tree)
            if value.startswith(("flow_", "status_")) and not name.startswith("SETTLED_BY_")  # no code, but a source
        }
    return {code for code in found if _CODE.fullmatch(code)}


def metric_definitions() -> list[Definition]:
    """Return all metrics of the worker."""
    return [value for value in vars(metrics).values() if isinstance(value, Definition)]


def span_attributes() -> set[str]:
    """Return the names of the attributes and events of spans, and their constant values."""
    return {value for name, value in vars(conventions).items() if name.isupper() and isinstance(value, str)}


def audit_fields() -> set[str]:
    """Return the fields of an audit line: names that accompany the event, and keys of the dictionaries beside it."""
    tree = next(tree for tree in _trees(WORKER) if {"access.allowed", "access.refused"} <= set(_texts(tree)))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    audit = next(one for one in functions if {"access.allowed", "access.refused"} <= set(_texts(one)))
    called = {_callee(call) for call in _calls(audit)}
    helpers = [one for one in functions if one.name in called]
    keywords = {keyword.arg for call in _calls(audit) if "access.allowed" in _texts(call) for keyword in call.keywords}
    keys = {
        key.value
        for function in (audit, *helpers)
        for node in ast.walk(function)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    return {name for name in keywords if name is not None} | keys


def command_options() -> set[str]:
    """Return the long options of both command lines, such as `--env-file`."""
    folders = (WORKER / "cli", EMULATOR)
    return {
        text
        for tree in _trees(*folders)
        for call in _calls(tree)
        if _callee(call) == "Option"
        for argument in call.args
        for text in _texts(argument)
        if text.startswith("--")
    }


def control_paths() -> set[str]:
    """Return the paths of the emulator's control endpoints, with NAME for the path parameter `{name}`."""
    paths = (text for tree in _trees(EMULATOR) for text in _texts(tree) if _CONTROL_PATH.fullmatch(text))
    return {re.sub(r"\{(\w+)\}", lambda parameter: parameter[1].upper(), path) for path in paths}


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _callee(call: ast.Call) -> str | None:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return None


def _texts(node: ast.AST) -> Iterator[str]:
    """Yield the string constants of a syntax tree."""
    return (one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))


def _assigned(body: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and values of a module's string constants; those of an enumeration as `Class.NAME`."""
    for node in body.body:
        match node:
            case ast.ClassDef(name=name):
                yield from _assigned(node, f"{name}.")
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(value)))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(value)))
            ):
                yield prefix + name, value


def _code_parameters(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield each function, method or class with a parameter or field `code`, and its position in a call."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name != "__init__":
                parameters = [one.arg for one in node.args.args if one.arg not in {"self", "cls"}]
                if "code" in parameters:
                    yield name, parameters.index("code")
            case ast.ClassDef(name=name):
                own = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
                fields = [
                    one.target.id
                    for one in node.body
                    if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                ]
                names = [arg.arg for arg in own[0].args.args[1:]] if own else fields
                if "code" in names:
                    yield name, names.index("code")


def _code_arguments(call: ast.Call, position: int | None, constants: dict[str, str]) -> set[str]:
    values = [keyword.value for keyword in call.keywords if keyword.arg == "code" and position is not None]
    if position is not None and len(call.args) > position:
        values.append(call.args[position])
    return {text for value in values for text in _resolved(value, constants)}


def _resolved(node: ast.AST, constants: dict[str, str]) -> Iterator[str]:
    """Yield the texts that an expression may have. A text inside a call is an argument of that call instead."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name(id=name):
            yield from filter(None, [constants.get(name)])
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            yield from filter(None, [constants.get(f"{owner}.{name}", constants.get(name))])
        case ast.IfExp(body=body, orelse=orelse):
            yield from _resolved(body, constants)
            yield from _resolved(orelse, constants)
        case ast.BoolOp(values=values):
            for value in values:
                yield from _resolved(value, constants)
