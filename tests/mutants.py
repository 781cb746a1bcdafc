"""Deliberate mistakes in the source, each of which the tests must notice. `make mutants` runs them.

    python tests/mutants.py [WORD ...]      those whose file or text has one of the words

A mistake is a text of one file and what stands in its place. It is made in a copy of the source,
on which the tests run that are to notice it, until the first that fails.
"""

# A mistake is one line, however long.
# ruff: noqa: E501

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
# The exit code of pytest where tests fail.
FAILED = 1


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file`; `tests` are to notice `new` in its place."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def make(self, source: Path) -> None:
        """Make the mistake in a copy."""
        path = source / "tangax" / self.file
        text = path.read_text()
        assert text.count(self.old) == 1, (
            f"{self.file} has {self.old!r} {text.count(self.old)} times"
        )
        path.write_text(text.replace(self.old, self.new))


KERNELS = tuple(
    f"tests/{name}.py"
    for name in ("empirical/test_checking", "engine/test_kinds", "empirical/test_kernels")
)
ENGINE = ("tests/engine/test_structured.py", *KERNELS)
CALLS = ("tests/empirical/test_arguments.py",)
BLOCKS = ("tests/blocks/test_batching.py",)
STORE = ("tests/blocks",)
STAX = ("tests/stax",)
TAYLOR = ("tests/taylor",)

MUTANTS = [
    # Kinds of sites
    Mutant("_engine/kinds/dense.py", "(first, second) if self.side == 1", "(second, first) if self.side == 1", KERNELS),
    Mutant("_engine/kinds/dense.py", "other = 1 - self.side\n        taken", "other = self.side\n        taken", KERNELS),
    Mutant("_engine/kinds/conv.py", "* c.strides[a]", "* 1", KERNELS),
    Mutant("_engine/kinds/conv.py", "* c.rhs_dilation[a]", "* 1", KERNELS),
    Mutant("_engine/kinds/embedding.py", "if clip:", "if not clip:", KERNELS),
    Mutant("_engine/kinds/embedding.py", "jnp.where(below | above, size, inside)", "jnp.where(above, size, inside)", KERNELS),
    Mutant("_engine/kinds/elementwise.py", "self.sign * to_shape", "to_shape", KERNELS),
    Mutant("_engine/kinds/elementwise.py", "G / record if", "G * record if", KERNELS),
    Mutant("_engine/kinds/normal_form.py", "-jnp.imag(G)", "jnp.imag(G)", KERNELS),
    Mutant("_engine/kinds/normal_form.py", ".at[jnp.arange(k), A.ids].add(", ".at[jnp.arange(k), A.ids].set(", KERNELS),
    Mutant("_engine/kinds/normal_form.py", "replace(factor, G=scale * factor.G)", "factor", KERNELS),
    Mutant("_engine/kinds/normal_form.py", "replace(factor, A=scale * factor.A)", "factor", KERNELS),
    Mutant("_engine/kinds/normal_form.py", "J=stack.J.sum(0)", "J=stack.J[0]", KERNELS),
    Mutant("_engine/kinds/normal_form.py", "not all(disjoint(f, g) for g in part) for part", "False for part", KERNELS),
    Mutant("_engine/contract/gram.py", "f2.A[:, :, 0], dtype)  # [n", "f2.A[:, :, 0], f2.A.dtype)  # [n", KERNELS),
    Mutant("_engine/views.py", "tuple((a - start, b - start)", "tuple((a, b)", KERNELS),
    # From a jaxpr to factors
    Mutant("_jaxpr/core.py", "with eqn.ctx.manager:", "if True:", KERNELS),
    Mutant("_engine/program.py", "if scan.consts <= a < first_x:", "if False:", KERNELS),
    Mutant("_engine/program.py", "if _jaxpr.stops_gradient(eqn) or not any(", "if not any(", KERNELS),
    Mutant("_engine/evaluate.py", "return 1 / factor if scale is None", "return factor if scale is None", KERNELS),
    Mutant("_engine/evaluate.py", "over_layers(stack) if operand >= first_x", "over_layers(stack) if operand > first_x", KERNELS),
    Mutant("_engine/linearise.py", "self._of_entries(sum(self.meta.sizes()[:output]) + index)", "self._of_entries(index)", ENGINE),
    Mutant("_engine/linearise.py", "            start += y.size\n", "", ENGINE),
    # From factors to a kernel
    Mutant("_engine/pairing.py", "if layouts(f1) == layouts(f2):", "if True:", ENGINE),
    Mutant("_engine/pairing.py", "list(map(Pair, f1, f2))", "list(map(Pair, f1, f1))", ENGINE),
    Mutant("_engine/kernel.py", "batch + others if plan.once else others + batch", "others + batch if plan.once else batch + others", ENGINE),
    Mutant("_engine/kernel.py", "kernel = kernel / frame.ax.size(frame.shape1)\n", "", ENGINE),
    Mutant("_engine/kernel.py", "lambda G: masked(G, [None, taken])", "lambda G: G", ("tests/engine/test_memory.py", *ENGINE)),
    Mutant("_engine/plan.py", "q + self.q.size <= o", "q <= o", ENGINE),
    Mutant("_engine/output_axes.py", "itertools.chain(*self.groups)", "itertools.chain(*self.groups[::-1])", ENGINE),
    Mutant("_engine/ranges.py", "(index >= self.count", "(index > self.count", ("tests/engine/test_memory.py", *ENGINE)),
    Mutant("_engine/contract/orders.py", "real = ids1 < A1.size", "real = ids1 >= 0", ENGINE),
    Mutant("_engine/contract/gram.py", "jnp.transpose(swapped, (1, 0, 3, 2))", "jnp.transpose(swapped, (1, 0, 2, 3))", ENGINE),
    Mutant("_engine/contract/tiles.py", "G=some_of(factor.G, block, start, 0)", "G=jax.lax.dynamic_slice_in_dim(factor.G, start, block.size)", ENGINE),
    Mutant("_engine/contract/tiles.py", "rows < columns + m.size", "rows < columns", ENGINE),
    Mutant("_engine/contract/materialise.py", "some_of(factor.G, j, start, -1)", "jax.lax.dynamic_slice_in_dim(factor.G, start, j.size, 6)", ENGINE),
    Mutant("_engine/contract/materialise.py", "some_of(factor.G, k, start, -2)", "jax.lax.dynamic_slice_in_dim(factor.G, start, k.size, 5)", ENGINE),
    Mutant("_shared/symmetry.py", "(equal & (a < b))", "(equal & (a > b))", ENGINE),
    # Calls
    Mutant("_arguments/reading.py", "jnp.where(same_inputs, key, fold(key))", "key", CALLS),
    Mutant("_arguments/reading.py", "{k: v[1] if is_pair(v)", "{k: v[0] if is_pair(v)", CALLS),
    Mutant("_methods/plain.py", "jacobians.other[r], strict", "jacobians.first[r], strict", KERNELS),
    Mutant("_methods/checking.py", "if over > 1 and leaf", "if over > 1e9 and leaf", ("tests/empirical/test_checking.py",)),
    Mutant("_shared/trees.py", "return Static(type(value),", "return Static(object,", ("tests/empirical", "tests/engine")),
    Mutant("_shared/derivatives.py", "    if not _jaxpr.is_linear_if_transposed(pulled):\n        return None\n", "", ("tests/engine/test_rules.py",)),
    # Blocks and stores
    Mutant("_blocks/fill.py", "part.transpose(a.twins)", "part", BLOCKS),
    Mutant("_blocks/plan.py", "[a for a in here if a <= b]", "[a for a in here if a < b]", BLOCKS),
    Mutant("_blocks/halves/factors.py", "layouts(f1) == layouts(f2) else LEAF", "True else LEAF", BLOCKS),
    Mutant("_blocks/fingerprint.py", 'tree_digest("params", call.params)', '""', STORE),
    Mutant("_blocks/store.py", "if _checksum(parts) == int(", "if _checksum(parts) or int(", STORE),
    Mutant("_blocks/examples.py", "np.minimum(np.arange(size), have - 1)", "np.arange(size) % have // 2", BLOCKS),
    Mutant("_blocks/nonfinite.py", "~np.isfinite(part)", "np.isnan(part)", ("tests/blocks",)),
    # Layers
    Mutant("stax/_affine.py", "seen.shifted(W_std**2,", "seen.shifted(W_std,", STAX),
    Mutant("stax/_affine.py", "0.0 if b_std is None else b_std**2", "0.0", STAX),
    Mutant("stax/_affine.py", "fan_in * seen.nngp + (b_std is not None)", "fan_in * seen.nngp", STAX),
    Mutant("stax/_affine.py", "ntk=own if after.ntk is None else own + after.ntk", "ntk=own", STAX),
    Mutant("stax/_covariance.py", "ntk = ntk * after.slope\n", "ntk = ntk * after.nngp\n", STAX),
    Mutant("stax/_normalise.py", "own2=c.own2 * q * q_twin", "own2=c.own2 * p * p_twin", STAX),
    Mutant("stax/_normalise.py", "variance + eps", "variance", STAX),
    Mutant("stax/_pooling.py", "jnp.ones_like(a), axes) if normalize_edges", "jnp.ones_like(a), axes) if not normalize_edges", STAX),
    # Taylor expansions
    Mutant("taylor/expand.py", "float(math.factorial(order))", "float(order)", TAYLOR),
    Mutant("taylor/series.py", "ways = math.comb(a + b, a)", "ways = 1", TAYLOR),
]  # fmt: skip


def is_noticed(mutant: Mutant) -> bool:
    """Whether a test fails on the source with the mistake."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
        mutant.make(source)
        env = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
        for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            env[name] = "1"
        run = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
        ]
        done = subprocess.run(
            [*run, *mutant.tests], cwd=ROOT, env=env, capture_output=True, check=False
        )
        if done.returncode not in (0, FAILED):
            raise RuntimeError(done.stdout.decode()[-2000:] + done.stderr.decode()[-2000:])
        return done.returncode == FAILED


def main(words: list[str]) -> int:
    chosen = [m for m in MUTANTS if not words or any(w in m.file + m.old for w in words)]
    missed = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for mutant, noticed in zip(chosen, pool.map(is_noticed, chosen), strict=True):
            print("noticed" if noticed else "MISSED ", mutant.file, repr(mutant.new), flush=True)
            missed += [] if noticed else [mutant]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} mistakes are noticed")
    return len(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
