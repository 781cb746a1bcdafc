"""Prints by how much the largest resident size of a process grows as it computes a kernel.

python peak.py MEMORY INPUTS.npy
"""

import resource
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import tangax as nt

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))


def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((8, 8))))
    before = peak()
    import networks

    f, params = networks.cnn(10)
    ntk_fn = nt.batch(nt.empirical_ntk_fn(f, vmap_axes=0), memory=sys.argv[1])
    ntk_fn(np.load(sys.argv[2], mmap_mode="r"), None, params)
    print(peak() - before)
