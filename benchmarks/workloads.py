"""The rows of the table: which kernel of which network, and what the table must show.

NumPy alone, so that every environment can read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workload:
    """A kernel of `n` examples, with themselves or with `m` others.

    `traced`: over the outputs, else full. `degree`: of a Taylor expansion in place of a kernel.
    `goal`: how many times faster than the best peer it should be; `share`: of the floor's rate;
    `first`: the first call's time over that of Neural Tangents' implementation 3; `batch_goal`:
    how many times faster than `nt.batch`. `memory`: of a kernel by Tangax's `batch`, `to_disk` or
    not; its only peer is the `nt.batch` of the row `scaled`, by the number of pairs.
    """

    name: str
    model: str
    outputs: int
    n: int
    m: int | None = None
    traced: bool = False
    degree: int = 0
    goal: float = 1.0
    share: float | None = None
    first: float = 1.0
    batch_goal: float | None = None
    memory: str = ""
    to_disk: bool = False
    scaled: str = ""

    @property
    def pairs(self) -> int:
        """Pairs of examples."""
        return self.n * (self.m or self.n)

    @property
    def shape(self) -> str:
        """`16x16 full`."""
        if self.degree:
            return f"degree {self.degree}"
        kind = "traced" if self.traced else "full"
        shape = f"{self.n}x{self.m or self.n} {kind}, {self.outputs} outputs"
        if not self.memory:
            return shape
        return f"{shape}, {self.memory}, {'to disk' if self.to_disk else 'in memory'}"


def kernels(
    model: str, outputs: int, n: int, m: int | None = None, *, kinds: str = "full", **goals: float
) -> list[Workload]:
    """One row for each kind."""
    found = []
    for kind in kinds.split():
        name = f"{model} {n}x{m or n} {kind}"
        found.append(
            Workload(name, model, outputs, n, m, kind == "traced", **goals)  # pyright: ignore[reportArgumentType]
        )
    return found


STREAM: dict[str, Any] = {"share": 0.5, "batch_goal": 40, "scaled": "cnn 200x200 traced"}

WORKLOADS: dict[str, Workload] = {
    work.name: work
    for work in [
        *kernels("cnn", 10, 5, 20, kinds="full traced", goal=1.6, share=0.5, first=0.6),
        *kernels("cnn", 10, 200, kinds="traced", goal=3, share=0.5, first=0.6, batch_goal=15),
        *kernels("mlp", 10, 20, kinds="full traced", goal=1.15, share=0.8),
        *kernels("mlp", 10, 100, goal=1.15, share=0.8),
        *kernels("mlp", 100, 5, kinds="traced", goal=1.15, share=0.8),
        *kernels("mlp-paper", 8, 16, share=0.8),
        *kernels("resnet18", 10, 8, goal=1.3, share=0.5),
        *kernels("resnet18", 10, 32, kinds="traced", goal=1.3, share=0.5),
        *kernels("mixer", 10, 8, goal=1.3, share=0.45),
        *kernels("vit", 10, 8, goal=1.3, share=0.45),
        *kernels("gpt", 2, 64, kinds="traced", goal=1.3, share=0.45),
        *kernels("gpt", 2, 64, goal=2, share=0.45),
        *kernels("gpt", 64, 16, goal=3, share=0.45),
        *kernels("rnn", 10, 16, goal=2, share=0.45),
        Workload("stream 1000x1000", "cnn", 10, 1000, traced=True, memory="2GiB", **STREAM),
        Workload(
            "stream 2000x2000", "cnn", 10, 2000, traced=True, memory="4GiB", to_disk=True, **STREAM
        ),
        *(
            Workload(f"taylor degree {d}", "mlp", 10, 20, degree=d, goal=4 if d == 6 else 1)
            for d in range(2, 7)
        ),
    ]
}
