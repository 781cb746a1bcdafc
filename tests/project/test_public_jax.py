"""Tangax stands on documented JAX only, and costs little to import.

`violations` reads a source file with `ast`, follows the names that its imports and plain
assignments bind, and reports every use of a module that JAX does not document. It is tried on bad
snippets too.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tangax"
FILES = sorted(SOURCE.rglob("*.py"))

PRIVATE = ("jax._src", "jax.interpreters", "jax.util", "jaxlib")
PUBLIC_OF_CORE = "jax.core.eval_jaxpr"
EXTEND = "jax.extend"
EXTEND_FILE = "_jaxpr/core.py"
IMPORTERS = ("importlib.import_module", "__import__")
DEPENDENCIES = {"jax", "numpy", "opt_einsum"}


def within(path: str, module: str) -> bool:
    return path == module or path.startswith(module + ".")


def refusal(path: str, filename: str) -> str | None:
    """Why a file may not use the dotted path, or None."""
    if any(within(path, module) for module in PRIVATE):
        return f"{path} is private to JAX"
    if within(path, "jax.core") and not within(path, PUBLIC_OF_CORE):
        return f"{path}: only {PUBLIC_OF_CORE} is documented"
    if within(path, EXTEND) and filename != EXTEND_FILE:
        return f"{path} belongs in {EXTEND_FILE}"
    return None


class Checker(ast.NodeVisitor):
    """Collects the violations of one file."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.found: list[str] = []
        self.names: dict[str, str] = {}
        self.depth = 0

    def report(self, node: ast.AST, reason: str | None) -> None:
        if reason is not None:
            self.found.append(f"{self.filename}:{getattr(node, 'lineno', '?')}: {reason}")

    def use(self, node: ast.AST, path: str) -> None:
        self.report(node, refusal(path, self.filename))

    def bind_import(self, node: ast.AST, path: str) -> None:
        # `import jax.core` only makes `jax.core.eval_jaxpr` reachable; what is used is checked.
        if path != "jax.core":
            self.use(node, path)
        root = path.partition(".")[0]
        if self.depth == 0 and root not in DEPENDENCIES | {"tangax"} | sys.stdlib_module_names:
            self.report(node, f"{root} is optional: import it inside the function that needs it")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.bind_import(node, alias.name)
            if alias.asname:
                self.names[alias.asname] = alias.name
            else:
                root = alias.name.partition(".")[0]
                self.names[root] = root

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            return
        for alias in node.names:
            if alias.name == "*":
                self.report(node, f"from {node.module} import *: hides what is used")
                continue
            path = f"{node.module}.{alias.name}"
            self.bind_import(node, path)
            self.names[alias.asname or alias.name] = path

    def visit_If(self, node: ast.If) -> None:
        # What only type checkers read is not imported.
        typing_only = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        self.visit(node.test)
        self.depth += typing_only
        for statement in node.body:
            self.visit(statement)
        self.depth -= typing_only
        for statement in node.orelse:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        path = self.path(node.value)
        for target in node.targets:
            if path and isinstance(target, ast.Name):
                self.names[target.id] = path
            else:
                self.visit(target)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit_path(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.visit_path(node)

    def visit_path(self, node: ast.expr) -> None:
        path = self.path(node)
        if path is None:
            self.generic_visit(node)
        else:
            self.use(node, path)

    def visit_Call(self, node: ast.Call) -> None:
        path = self.path(node)
        called = self.path(node.func) or ast.unparse(node.func)
        if path is not None:
            self.use(node, path)
        match node.args:
            case [ast.Constant(value=str(module)), *_] if called in IMPORTERS:
                self.bind_import(node, module)
        self.generic_visit(node)

    def path(self, node: ast.expr) -> str | None:
        """The dotted path that an expression stands for, as far as the file's own text tells."""
        match node:
            case ast.Name(id=name):
                return self.names.get(name)
            case ast.Attribute(value=value, attr=attr):
                owner = self.path(value)
                return f"{owner}.{attr}" if owner else None
            case ast.Call(
                func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(attr)), *_]
            ):
                owner = self.path(value)
                return f"{owner}.{attr}" if owner else None
        return None


def violations(text: str, filename: str = "module.py") -> list[str]:
    checker = Checker(filename)
    checker.visit(ast.parse(text))
    return checker.found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_source_uses_documented_modules_only(file: Path) -> None:
    name = str(file.relative_to(SOURCE))
    assert violations(file.read_text(encoding="utf-8"), name) == []


@pytest.mark.parametrize(
    "text",
    [
        "import jax._src",
        "import jax._src.core as core",
        "from jax import _src",
        "from jax._src import core",
        "from jax._src.core import Jaxpr",
        "import jax\njax._src.core.Jaxpr",
        "import jax as j\ndef f():\n    return j._src",
        "import jax\nj = jax\nj._src",
        "import jax\ngetattr(jax, '_src').core",
        "import importlib\nimportlib.import_module('jax._src.core')",
        "from importlib import import_module\nimport_module('jax._src')",
        "__import__('jax._src')",
        "import jax.interpreters.ad",
        "from jax.interpreters import ad",
        "import jax\njax.interpreters.mlir",
        "from jax.util import safe_zip",
        "import jax\njax.util.safe_map",
        "import jaxlib",
        "from jax.core import Tracer",
        "from jax.core import eval_jaxpr, Tracer",
        "from jax.core import *",
        "from jax import *",
        "from jax import core\ncore.Tracer",
        "from jax import core\nf(core)",
        "import jax.core as jc\nisinstance(0, jc.Tracer)",
        "import jax\ncore = jax.core",
        "import jax\ndef f(x: jax.core.Tracer): ...",
        "import jax\n@jax.core.wrap\ndef f(): ...",
        "import jax.extend",
        "from jax import extend",
        "from jax.extend import core",
        "from jax.extend.core import Literal",
        "def f():\n    from jax.extend.core import primitives",
        "import jax\njax.extend.core.Literal",
        "import flax",
        "from flax import nnx",
        "import matplotlib.pyplot as plt",
        "try:\n    import equinox\nexcept ImportError:\n    equinox = None",
        "class A:\n    import haiku",
        "if True:\n    import optax",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import flax",
        "import scipy",
    ],
)
def test_bad_snippets_are_caught(text: str) -> None:
    assert violations(text)


@pytest.mark.parametrize(
    "text",
    [
        "import jax\njax.core.eval_jaxpr(jaxpr, consts)",
        "import jax.core\njax.core.eval_jaxpr",
        "from jax.core import eval_jaxpr\neval_jaxpr(jaxpr, consts)",
        "from jax import core\ncore.eval_jaxpr",
        "import jax.core as jc\njc.eval_jaxpr.__doc__",
        "import jax, numpy as np, opt_einsum",
        "from jax.experimental import jet",
        "from jax import lax, numpy as jnp\nlax.scan, jnp.core",
        "from __future__ import annotations\nimport dataclasses",
        "from tangax import _axes\nfrom . import _jaxpr\nfrom ._jaxpr import trace",
        "def f():\n    import matplotlib.pyplot as plt\n    return plt",
        "class A:\n    def f(self):\n        from flax import nnx",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import flax",
        "def f(jaxpr):\n    return jaxpr.core.util",
        "'''Never jax._src.'''",
    ],
)
def test_good_snippets_pass(text: str) -> None:
    assert violations(text) == []


def test_extend_is_allowed_in_one_file() -> None:
    text = "from jax.extend import core\nimport jax\njax.extend.core.primitives"
    assert violations(text, EXTEND_FILE) == []
    assert violations(text, f"stax/{EXTEND_FILE}")
    assert violations("from jax._src import core", EXTEND_FILE)


IMPORT_IN_A_FRESH_PROCESS = """
import sys
import jax, jax.numpy, numpy, opt_einsum
before = set(sys.modules)
import tangax
print(*sorted(set(sys.modules) - before), sep='\\n')
"""

# Parts of JAX that `import jax` leaves out, each of which takes longer than all of Tangax.
SLOW_PARTS_OF_JAX = (
    "jax.experimental.sparse",
    "jax.experimental.jax2tf",
    "jax.experimental.mosaic",
)


def test_import_loads_nothing_beyond_the_dependencies() -> None:
    """Beyond its dependencies, `import tangax` loads only its own, JAX's and standard modules."""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_IN_A_FRESH_PROCESS],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    loaded = process.stdout.split()
    assert "tangax" in loaded
    allowed = DEPENDENCIES | {"jaxlib", "ml_dtypes", "tangax"} | sys.stdlib_module_names
    assert [name for name in loaded if name.partition(".")[0] not in allowed] == []
    assert [name for name in loaded if name.startswith(SLOW_PARTS_OF_JAX)] == []
