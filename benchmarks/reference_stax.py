"""The kernels of tests/support/networks_of_stax.py as Neural Tangents 0.6.5 has them, in float64.

Run with the Python of its environment, which `make bench ONLY=mlp` makes:

    benchmarks/.venv-neural_tangents/bin/python benchmarks/reference_stax.py

It writes tests/support/stax_reference.npz: for each case the kernels of x1 with x2, those of
x1 with itself and the finite network's outputs for parameters drawn by NumPy; and the layers'
signatures.
"""

import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from neural_tangents import stax

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from support.networks_of_stax import CASES, LAYERS, Case, M, N, filled, signature  # noqa: E402


def turned(kernel: np.ndarray, output: tuple[int, ...]) -> np.ndarray:
    """Positions in the order of the output; Neural Tangents turns them with each convolution."""
    if kernel.ndim == 2:
        return kernel
    positions = output[1:-1]
    twice = tuple(size for size in positions for _ in range(2))
    if kernel.shape[2:] == twice:
        return kernel
    assert kernel.shape[2:] == twice[::-1]
    return np.transpose(kernel, (0, 1, *reversed(range(2, kernel.ndim))))


def reference(case: Case) -> dict[str, np.ndarray]:
    """The arrays of one case."""
    init_fn, apply_fn, kernel_fn = case.build(stax)
    x1, x2 = (jnp.asarray(case.inputs(n, seed)) for n, seed in ((N, 0), (M, 1)))
    pattern1, pattern2 = case.patterns(N, 0), case.patterns(M, 1)
    shape, params = init_fn(jax.random.PRNGKey(0), x1.shape)
    params = jax.tree_util.tree_map(filled(), params)
    found = {}
    if not case.random:
        kwargs = {} if pattern1 is None else {"pattern": pattern1}
        found["y"] = np.asarray(apply_fn(params, x1, rng=jax.random.PRNGKey(0), **kwargs))
    for kind in ("nngp", "ntk"):
        kwargs = {} if pattern1 is None else {"pattern": (pattern1, pattern1)}
        found[f"{kind} itself"] = turned(np.asarray(kernel_fn(x1, None, kind, **kwargs)), shape)
        kwargs = {} if pattern1 is None else {"pattern": (pattern1, pattern2)}
        found[kind] = turned(np.asarray(kernel_fn(x1, x2, kind, **kwargs)), shape)
    return found


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    arrays = {"signatures": np.array([signature(getattr(stax, name)) for name in LAYERS])}
    for name, case in CASES.items():
        for key, value in reference(case).items():
            arrays[f"{name}/{key}"] = value
        print(name, {key: a.shape for key, a in arrays.items() if key.startswith(name + "/")})
    np.savez_compressed(TESTS / "support" / "stax_reference.npz", **arrays)


if __name__ == "__main__":
    main()
