"""Write the generated documents to a folder. `--check` writes nothing and exits 1 if one of them is out of date."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pydantic import JsonValue

from flow_contracts.schema.asyncapi import asyncapi
from flow_contracts.schema.json_schemas import request_schema, result_schema


def documents() -> dict[str, str]:
    """Return the text of each generated file, by name."""
    return {
        "flow-request.schema.json": _text(request_schema()),
        "flow-result.schema.json": _text(result_schema()),
        "asyncapi.json": _text(asyncapi()),
    }


def stale(folder: Path) -> list[str]:
    """Return the names of the files in `folder` that are missing or out of date; line endings do not count."""
    return [name for name, text in documents().items() if _read(folder / name) != text]


def write(folder: Path) -> None:
    """Write every document, with LF line endings on every system."""
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m flow_contracts.schema", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of the documents; in the repository, contracts/schema")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document is out of date")
    options = parser.parse_args(arguments)
    if not options.check:
        write(options.folder)
        return 0
    names = stale(options.folder)
    for name in names:
        sys.stderr.write(f"{options.folder / name} is out of date: run `make schema` and commit the result\n")
    return 1 if names else 0


def _text(document: dict[str, JsonValue]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
