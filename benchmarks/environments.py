"""The peers' environments: a folder each beside this file, made anew as requirements change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
OURS = HERE.parent


@dataclass(frozen=True)
class Environment:
    """`pythons`: minor versions that will do, the best first."""

    pythons: tuple[str, ...]
    requirements: tuple[str, ...]


NEWEST = ("3.13", "3.12", "3.11")
ENVIRONMENTS = {
    "tangax": Environment(NEWEST, ("--editable", f"{OURS}[store]", "flax")),
    "neural_tangents": Environment(
        ("3.11",),
        (
            "neural-tangents==0.6.5",
            "jax==0.4.25",
            "jaxlib==0.4.25",
            "numpy<2.1",
            "scipy<1.13",
            "flax==0.8.2",
        ),
    ),
    # JAX only draws the parameters here.
    "torch": Environment(NEWEST, ("torch==2.13.0", "jax")),
    "netket": Environment(NEWEST, ("netket", "flax")),
}
# Where each peer runs.
PEERS = {
    "tangax": "tangax",
    "jax": "tangax",
    "neural_tangents": "neural_tangents",
    "torch": "torch",
    "netket": "netket",
}


def python_of(name: str) -> Path:
    """The interpreter of an environment."""
    return HERE / f".venv-{name}" / "bin" / "python"


def made(name: str) -> Path:
    """The interpreter of an environment, which is made if it is not there as it should be."""
    wanted = ENVIRONMENTS[name]
    folder = python_of(name).parent.parent
    base = found(wanted.pythons)
    done, text = folder / ".done", "\n".join((base, *wanted.requirements))
    if done.exists() and done.read_text() == text:
        return python_of(name)
    shutil.rmtree(folder, ignore_errors=True)
    run = [base, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(run, check=True)
    pip = [base, "-m", "pip", "--python", str(python_of(name)), "install", "-qq", "--no-input"]
    subprocess.run([*pip, *wanted.requirements], check=True)
    done.write_text(text)
    return python_of(name)


def found(minors: tuple[str, ...]) -> str:
    """A Python of the first of these versions that is here, and has pip and venv."""
    for minor in minors:
        for candidate in candidates(minor):
            check = "import sys, pip, venv; print('%d.%d' % sys.version_info[:2], sys.abiflags)"
            try:
                run = subprocess.run([candidate, "-c", check], capture_output=True, text=True)
            except OSError:
                continue
            if run.returncode == 0 and run.stdout.strip() == minor:
                return candidate
    raise RuntimeError(f"No Python {' or '.join(minors)} with pip and venv was found.")


def candidates(minor: str) -> Iterator[str]:
    """Where a Python of a version may be: running, on the PATH, or under pyenv.

    Not the running environment's own link: what is made from that breaks when that is made anew.
    """
    yield from (os.path.realpath(sys.executable), f"python{minor}")
    pyenv = shutil.which("pyenv")
    if pyenv:
        listed = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True)
        for version in sorted(listed.stdout.split(), reverse=True):
            if version.rpartition(".")[0] == minor:
                prefix = subprocess.run([pyenv, "prefix", version], capture_output=True, text=True)
                yield f"{prefix.stdout.strip()}/bin/python"
