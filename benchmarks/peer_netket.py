"""NetKet's NTK, which its natural-gradient drivers are built on: Jacobians, then a contraction."""

from __future__ import annotations

from functools import partial

import netket
import on_jax
from netket.jax._ntk import empirical_ntk_by_jacobian
from on_jax import Method
from on_jax import forget as forget
from workloads import Workload


def versions() -> dict[str, str]:
    """Of what runs."""
    return on_jax.versions(netket)


def methods(work: Workload) -> dict[str, Method]:
    """By name."""
    if work.degree:
        return {}
    make = partial(empirical_ntk_by_jacobian, trace_axes=on_jax.trace_axes(work), vmap_axes=0)
    return {"jacobian": on_jax.kernel(make, work)}
