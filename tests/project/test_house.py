"""Where lines stand: imports point down the wings, and the map names every room."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tangax"
FILES = sorted(SOURCE.rglob("*.py"))
DOORS = {"__init__", "empirical", "batching", "monte_carlo"}
# What each wing stands on. `stax` and `taylor` stand beside the column.
BELOW = {
    "_jaxpr": set(),
    "_shared": {"_jaxpr"},
    "_arguments": {"_shared", "_jaxpr"},
    "_engine": {"_arguments", "_shared", "_jaxpr"},
    "_methods": {"_engine", "_arguments", "_shared", "_jaxpr"},
    "_blocks": {"_methods", "_engine", "_arguments", "_shared", "_jaxpr"},
    "stax": {"_arguments", "_shared", "_jaxpr"},
    "taylor": {"_arguments", "_shared", "_jaxpr"},
}
MOST_LINES = 400


def relative(file: Path) -> str:
    return str(file.relative_to(SOURCE))


def wing(file: Path) -> str:
    parts = file.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else "doors"


def imports(file: Path) -> list[tuple[list[str], str]]:
    """The modules of the package that a file imports from, as parts, and the names."""
    package = list(file.relative_to(SOURCE).with_suffix("").parts)[:-1]
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            up = package[: len(package) + 1 - node.level]
            module = [*up, *(node.module or "").split(".")] if node.module else up
            found += [(module, alias.name) for alias in node.names]
    return found


def faults(file: Path) -> list[str]:
    found = []
    here = wing(file)
    for module, name in imports(file):
        there = (module or [name])[0]
        inside = there == here and there != "doors"
        if not inside and name.startswith("_") and name not in BELOW and name != "__version__":
            found.append(f"{name} of {'.'.join(module)} is its own")
        if inside or here == "doors" or there == "__version__":
            continue
        if there not in BELOW.get(here, set()):
            found.append(f"{here} stands below {there}")
    return found


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_imports_point_down_and_take_nothing_private(file):
    assert faults(file) == []


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_file_is_one_idea(file):
    assert len(file.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_equations_are_read_in_one_wing(file):
    """Outside it none knows an equation's name or parameters, but to show them."""
    if wing(file) == "_jaxpr":
        return
    found = re.findall(r"\beqn\.(?:params|primitive)\b|_jaxpr\.name\b", file.read_text())
    assert found == []


def test_no_test_imports_a_test():
    files = (ROOT / "tests").rglob("*.py")
    assert not [f for f in files if re.search(r"^(from|import) \S*test_", f.read_text(), re.M)]


def test_the_root_holds_doors():
    assert {file.stem for file in SOURCE.glob("*.py")} == DOORS


def test_the_map_names_every_room_and_no_other():
    """A file by its name without the suffix, in the block of `docs/how-it-works.md`."""
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    plan = text.partition("## The rooms")[2].partition("```")[2].partition("```")[0]
    path, named = [], set()
    for line in plan.splitlines():
        entry = re.match(r"( *)([\w/]+(?:, [\w/]+)*)(?:  |$)", line)
        if entry is None:
            continue
        depth = len(entry[1]) // 2
        for room in entry[2].split(", "):
            path = [*path[:depth], room.rstrip("/")]
            if not room.endswith("/"):
                named.add("/".join(path[2:]))
    stand = {relative(file).removesuffix(".py") for file in FILES if file.name != "__init__.py"}
    assert named == stand
