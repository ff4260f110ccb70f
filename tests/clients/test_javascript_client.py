"""The package `clients/javascript`: its own tests on Node, its size, its types, and what npm publishes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.harness import HERE, NODE, node
from tests.support.processes import CHECKOUT

PACKAGE = CHECKOUT / "clients" / "javascript"
TYPESCRIPT = CHECKOUT / "docs" / "samples" / "pcf-control" / "node_modules" / "typescript" / "bin" / "tsc"
MAX_BYTES = 4096
pytestmark = pytest.mark.timeout(120)

USES = """
import { FlowError, listFlows, outputOf, resumeFlow, startFlow, waitForResult, type Options } from "flow-worker-client";

interface Quote { quote: string }

export async function quote(options: Options): Promise<string> {
  const started = (await resumeFlow(options)) ?? (await startFlow("create-quote", { amount: 1 }, options));
  const onState = ({ text, until }: { text: string; until: string | null }) => console.log(text, until);
  const result = await waitForResult<Quote>(started, { ...options, onState, storage: sessionStorage });
  return outputOf(result).quote;
}

export const retryable = (error: unknown) => error instanceof FlowError && error.retryable;
export const names = async (options: Options) => (await listFlows(options)).map(({ name }) => name);
// @ts-expect-error a start needs the gateway and a token
void startFlow("create-quote", null, {});
"""


def test_its_own_tests_pass() -> None:
    if NODE is None:
        pytest.skip("Node is not installed")
    command = [NODE, "--test", "test/flow-client.test.mjs"]
    process = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=100, check=False)
    assert process.returncode == 0, process.stdout[-8000:]
    assert int(re.findall(r"^# pass (\d+)", process.stdout, re.MULTILINE)[0]) >= 25


def test_it_is_smaller_than_4_kb_when_minified() -> None:
    esbuild = HERE / "node_modules" / "esbuild" / "bin" / "esbuild"
    command = [node(), str(esbuild), "--minify", "--format=esm", str(PACKAGE / "flow-client.js")]
    minified = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    assert len(minified) < MAX_BYTES


def test_it_depends_on_nothing_and_publishes_what_it_exports() -> None:
    manifest = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    assert not {"dependencies", "peerDependencies", "private"} & set(manifest)
    exported = {path.removeprefix("./") for path in manifest["exports"]["."].values()}
    assert exported <= set(manifest["files"])
    assert all((PACKAGE / name).is_file() for name in manifest["files"])
    assert not re.search(r"\bimport\b", (PACKAGE / "flow-client.js").read_text(encoding="utf-8"))


def test_its_types_fit_a_program(tmp_path: Path) -> None:
    if NODE is None or not TYPESCRIPT.is_file():
        pytest.skip("no TypeScript; `npm install --prefix docs/samples/pcf-control` gets it")
    package = tmp_path / "node_modules" / "flow-worker-client"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("node_modules", "test"))
    (tmp_path / "use.ts").write_text(USES, encoding="utf-8")
    options = {"strict": True, "noEmit": True, "module": "nodenext", "target": "es2022", "types": []}
    config = {"compilerOptions": options, "files": ["use.ts"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = [NODE, str(TYPESCRIPT), "--project", str(tmp_path)]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert process.returncode == 0, process.stdout
