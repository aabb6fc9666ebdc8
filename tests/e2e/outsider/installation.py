"""The wheel, and environments that hold it and what it asks for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.layout.test_pins import pins
from tests.unit.layout.tree import PACKAGES, ROOT, pyproject

INSTALL_TIMEOUT_S = 300.0
RUN_TIMEOUT_S = 60.0


def build_wheel(place: Path) -> Path:
    """Built from a copy: what an earlier build left in the checkout must not get into it."""
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    _pip("wheel", "--no-deps", "--wheel-dir", str(place), str(source))
    (wheel,) = place.glob("*.whl")
    return wheel


def lowest(extras: tuple[str, ...]) -> dict[str, str]:
    """The oldest version that pyproject.toml admits, for each direct dependency."""
    project = pyproject()["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    found: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        (bound,) = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
        found[canonicalize_name(requirement.name)] = bound
    return found


@dataclass(frozen=True, slots=True)
class Environment:
    """One installation of the wheel, used from ``project``."""

    directory: Path
    project: Path
    wanted: dict[str, str]  # the version that each distribution is meant to have, as far as that is said

    @classmethod
    def make(cls, directory: Path, project: Path, wheel: Path, extra: str = "", *, oldest: bool) -> Environment:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True, timeout=RUN_TIMEOUT_S)
        made = cls(directory, project, lowest((extra,) if extra else ()) if oldest else pins())
        constraints = directory / "constraints.txt"
        constraints.write_text("\n".join(f"{name}=={version}" for name, version in made.wanted.items()))
        what = f"stele[{extra}] @ {wheel.as_uri()}" if extra else f"stele @ {wheel.as_uri()}"
        _pip("--python", str(made.python), "install", "--no-compile", "-c", str(constraints), what)
        return made

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        (found,) = self.directory.glob("lib/python3*/site-packages")
        return found

    def installed(self) -> dict[str, str]:
        """Names and versions of the distributions."""
        code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        listed: dict[str, str] = json.loads(self.run("python", "-c", code).stdout)
        return {canonicalize_name(name): version for name, version in listed.items()}

    def run(self, program: str, *arguments: str, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of this environment in the project's folder; an exit status that is not ``status`` fails the test."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("STELE_", "PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(
            [self.directory / "bin" / program, *arguments],
            cwd=self.project,
            env=env | variables,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        said = f"{program} {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == status, said
        return done


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"pip {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
