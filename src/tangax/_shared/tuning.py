"""Numbers that are fitted to machines, by platform, and what compilers for it do.

Measured, where no more is said, on two cores of a server's CPU with 32 MiB of cache. Those of
accelerators are of one H200 or follow from its memory.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import jax


@dataclass(frozen=True)
class Tuning:
    """The numbers of a platform.

    `cache`: entries that stay in a processor's cache, or fill an accelerator.
    `small_blocks`: whether blocks of outputs smaller than memory allows may be faster.
    `pulled`: bytes of the largest array of the backward passes that are taken at once.
    `any_convolution`: whether one is as fast in a loop, and with channels in any place.
    `block`: examples of a side of a tile of `batch`: enough for good matrix products, few enough
    that half of a kernel is half.
    `chunk`: bytes that evaluating some of them takes, whatever the budget, if that fits: budgets
    are not to change the bits of a kernel.
    `pairs`: bytes of a covariance of `stax` at a time: on a CPU it and the next layer's stay in the
    caches.
    `barriers`: whether the compiler heeds them before it fuses.
    `quick`: options to compile what runs a few times.
    """

    cache: int
    small_blocks: bool
    pulled: int
    any_convolution: bool
    block: int
    chunk: int
    pairs: int
    barriers: bool
    quick: dict[str, Any] = field(default_factory=dict)


# `pulled`: 400 traced outputs of a Transformer with half a MiB each took 3.1 s of CPU time one by
# one, 2.6 s in blocks of 6 MiB, 3.1 of 12, 5.2 of 25, 8.6 of 50 and 130 of 200 MiB on JAX 0.10.2;
# 2.5, 2.3, 2.2, 2.6, 3.0 and 4.3 s on 0.12. With fewer than 16 MiB other networks are slower.
CPU = Tuning(
    cache=2**20,
    small_blocks=True,
    pulled=2**24,
    any_convolution=False,
    block=128,
    chunk=2**26,
    pairs=2**20,
    barriers=jax.__version_info__ >= (0, 12),
    quick={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)
ACCELERATOR = Tuning(
    cache=2**26,
    small_blocks=False,
    pulled=sys.maxsize,
    any_convolution=True,
    block=1024,
    chunk=2**31,
    pairs=2**28,
    barriers=True,
)


def tuning() -> Tuning:
    return CPU if jax.default_backend() == "cpu" else ACCELERATOR


# What moving one entry through memory costs, in multiply-adds of a matrix product, and a step of a
# loop. A step of a loop over groups should have as many multiply-adds as WORTH.
MOVE, STEP, WORTH = 100, 10**6, 10**8
# Rows of a strip of a symmetric kernel, of which there are up to four: of fewer there is little to
# save, and XLA may compute what it fuses into them once for each strip.
ROWS = 256
# The share of free memory that intermediates of a call may take unless the user says otherwise, and
# that a batched run may. Of its budget what compiling takes, measured with small networks, and of
# the remainder what is planned with: allocators hold more than they give.
CALL_SHARE, RUN_SHARE, RESERVE, PLANNED = 0.25, 0.5, 2**28, 0.85
# Bytes of examples that are read at a time where the size of a block does not matter, and of rows
# of a Jacobian that are held at a time.
READ, ROW_BYTES = 2**24, 2**26
# What a plan is said to hold is a bound. Fresh pages are 0.3 to 0.9 of it, with fourteen networks.
FRESH = 0.6
