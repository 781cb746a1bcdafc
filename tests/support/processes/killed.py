"""A run that is killed: a kernel of so many examples, in tiles of two, to the path given.

python killed.py PATH EXAMPLES
"""

import signal
import sys
from pathlib import Path

import jax
import numpy as np

import tangax as nt
from tangax._blocks import fill

sys.path.insert(0, str(Path(__file__).parents[2]))
from support.images import conv, conv_params


class Telling(fill.Halved):
    """Tells of every tile, for whoever is to kill it then."""

    def tile(self, first, second):
        print("tile", flush=True)
        return super().tile(first, second)


if __name__ == "__main__":
    # A shell that runs the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jax.config.update("jax_enable_x64", True)
    fill.Halved = Telling
    x = np.random.default_rng(0).standard_normal((int(sys.argv[2]), 5, 5, 2))
    ntk_fn = nt.empirical_ntk_fn(conv, vmap_axes=0, check_vmap=False)
    nt.batch(ntk_fn, 2, store=sys.argv[1])(x, None, conv_params())
    print("finished", flush=True)
