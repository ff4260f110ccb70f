"""Builds the three distributions once and installs each wheel into an empty environment outside the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.trust_store import of_the_machine

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("contracts", "worker", "emulator")
_PINNED = re.compile(r"^([\w.-]+==\S+)", re.MULTILINE)
_NO_INDEX = re.compile(r"NewConnectionError|Temporary failure in name resolution|No matching distribution|Max retries")


@dataclass(frozen=True)
class Built:
    """The sdists and wheels of all three distributions."""

    folder: Path

    def wheel(self, distribution: str) -> Path:
        """The wheel of a distribution, such as `flow_contracts`."""
        [wheel] = self.folder.glob(f"{distribution}-*.whl")
        return wheel

    def sdist(self, distribution: str) -> Path:
        """The source distribution of a distribution."""
        [sdist] = self.folder.glob(f"{distribution}-*.tar.gz")
        return sdist


@dataclass(frozen=True)
class Installed:
    """An environment that holds one distribution and its dependencies, and a working folder outside the repository."""

    environment: Path
    working_folder: Path

    @property
    def scripts(self) -> Path:
        """The folder of Python and of the commands."""
        return self.environment / ("Scripts" if os.name == "nt" else "bin")

    @property
    def site_packages(self) -> Path:
        """The folder of the installed packages."""
        if os.name == "nt":
            return self.environment / "Lib" / "site-packages"
        return self.environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"

    def variables(self) -> dict[str, str]:
        """The variables of this process without those that lead back to the repository."""
        ours = ("PYTHON", "FLOW_WORKER_", "PYTEST_", "VIRTUAL_ENV")
        return of_the_machine({name: value for name, value in os.environ.items() if not name.startswith(ours)})

    def run(self, command: str, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
        """Run a command of the environment in the working folder; its standard output. It must exit 0."""
        done = subprocess.run(
            [self.scripts / command, *arguments],
            cwd=self.working_folder,
            env={**self.variables(), **(variables or {})},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def python(self, program: str, variables: Mapping[str, str] | None = None) -> str:
        """Run a Python program in the environment; its standard output."""
        return self.run("python", "-c", program, variables=variables)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build from a copy: setuptools writes into the folder it builds, and other tests use the repository meanwhile."""
    sources, distributions = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("distributions")
    generated = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, sources / folder, ignore=generated)
        command = [
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            str(distributions),
            str(sources / folder),
        ]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return Built(distributions)


@pytest.fixture(scope="session")
def constraints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The versions of the lock file: the tests then do not depend on the releases of the day."""
    pins = _PINNED.findall((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    path.write_text("\n".join(pins), encoding="utf-8")
    return path


def install(folder: Path, built: Built, constraints: Path, *requirements: str) -> Installed:
    """Create an empty environment in `folder` and install the requirements. Skips where no package index answers."""
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    installed = Installed(environment, folder)
    command = [
        *(sys.executable, "-m", "pip", "--python", str(installed.scripts / "python"), "install", "--quiet"),
        *("--disable-pip-version-check", "--no-compile", "--only-binary", ":all:", "--retries", "1"),
        *("--find-links", str(built.folder), "--constraint", str(constraints), *requirements),
    ]
    done = subprocess.run(
        command, cwd=folder, env=installed.variables(), capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    if done.returncode != 0 and _NO_INDEX.search(done.stderr) and "CI" not in os.environ:
        pytest.skip(f"no package index answers: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return installed
