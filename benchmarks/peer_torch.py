"""PyTorch, by the two methods of its NTK tutorial, on `torch.func`: eager, on the CPU.

Jacobian contraction: `vmap(jacrev)`, then an einsum for each leaf. Vector products: for every pair
of examples `vjp`, then `jvp`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import networks
import networks_torch
import torch
from on_jax import Method
from torch.func import jacrev, jvp, vjp, vmap
from workloads import Workload


def versions() -> dict[str, str]:
    """Of what runs."""
    return {"torch": torch.__version__}


def forget() -> None:
    """Nothing is kept but what is referred to."""
    gc.collect()


def network(work: Workload) -> tuple[Callable[..., Any], Any]:
    """The function of one example, and its parameters."""
    if work.model == "resnet18":
        params, statistics = map(networks_torch.on_torch, networks.resnet18_drawn(work.outputs))
        return networks_torch.resnet18_of(statistics), params
    _, params = networks.MODELS[work.model](work.outputs)
    return networks_torch.NETWORKS[work.model], networks_torch.on_torch(params)


def leaves(tree: Any) -> list[torch.Tensor]:
    """The tensors of a tree."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree
    return [leaf for value in values for leaf in leaves(value)]


def methods(work: Workload) -> dict[str, Method]:
    """By name."""
    if work.degree:
        return {}
    letters = "noz,moz->nm" if work.traced else "noz,mqz->nmoq"

    def by_jacobian(f: Any, params: Any, x1: Any, x2: Any) -> Any:
        jacobians = vmap(jacrev(f), (None, 0))
        first = [j.flatten(2) for j in leaves(jacobians(params, x1))]
        second = first
        if x2 is not None:
            second = [j.flatten(2) for j in leaves(jacobians(params, x2))]
        kernel = sum(torch.einsum(letters, a, b) for a, b in zip(first, second, strict=True))
        return kernel / (work.outputs if work.traced else 1)

    def by_products(f: Any, params: Any, x1: Any, x2: Any) -> Any:
        def pair(a: Any, b: Any) -> Any:
            y, pullback = vjp(lambda w: f(w, b), params)

            def column(e: Any) -> Any:
                return jvp(lambda w: f(w, a), (params,), pullback(e))[1]

            kernel = vmap(column, out_dims=1)(torch.eye(len(y)))
            return torch.trace(kernel) / work.outputs if work.traced else kernel

        return vmap(vmap(pair, (None, 0)), (0, None))(x1, x1 if x2 is None else x2)

    def method(run: Callable[..., Any]) -> Method:
        def make() -> Callable[[], Any]:
            f, params = network(work)
            x1 = networks_torch.examples(work.model, networks.inputs(work.model, work.n, 1))
            x2 = None
            if work.m is not None:
                x2 = networks_torch.examples(work.model, networks.inputs(work.model, work.m, 2))
            return lambda: run(f, params, x1, x2)

        return make

    return {"jacobian": method(by_jacobian), "vector products": method(by_products)}
