"""One environment's process: prepares and runs methods as the driver asks, a line of JSON each.

    python worker.py PEER

Every request is `{"do": ..., "work": row, "method": name}`, as far as it needs them: `methods`
lists those of a row; `prepare` compiles one, runs it once and saves its result where `to` says;
`run` times warm runs; `compile` times tracing and compiling anew; `stages` times Tangax's stages;
`size` counts parameters; `infinite` runs a `kernel_fn` of `stax` once; `drop` forgets all. Answers
hold seconds, or an `error`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import infinite
import numpy as np
from infinite import INFINITE
from workloads import WORKLOADS

MOMENT, QUICK = 0.1, 2.0


class Peer:
    """The methods of one peer, those that are prepared, and what they are made for."""

    def __init__(self, name: str) -> None:
        self.module = importlib.import_module(f"peer_{name}")
        self.ready: dict[str, Callable[[], Any]] = {}

    def versions(self) -> dict[str, str]:
        """Names and versions of what runs."""
        return self.module.versions()

    def methods(self, work: str) -> dict[str, list[str]]:
        """The methods that this peer has for a row."""
        row = WORKLOADS[work]
        if row.memory and self.module.__name__ != "peer_tangax":
            return {"methods": []}  # another row is measured in its place
        return {"methods": list(self.module.methods(row))}

    def size(self, work: str) -> dict[str, int]:
        """The number of parameters."""
        from jax import tree_util
        from networks import MODELS

        _, params = MODELS[WORKLOADS[work].model](WORKLOADS[work].outputs)
        return {"size": sum(a.size for a in tree_util.tree_leaves(params))}

    def prepare(self, work: str, method: str, to: str) -> dict[str, float]:
        """Make, compile and run; once more if that was quick, for what is made on the first run."""
        make = self.module.methods(WORKLOADS[work])[method]
        start = time.perf_counter()
        self.ready[method] = make()
        compiling = time.perf_counter() - start
        first, kernel = 0.0, None
        for _ in range(2):
            if first < QUICK:
                start = time.perf_counter()
                kernel = self.ready[method]()
                first = time.perf_counter() - start
        np.save(to, np.asarray(kernel))
        return {"compile": compiling, "first": first}

    def compile(self, work: str, method: str) -> dict[str, float]:
        """The time to trace and compile, nothing kept from before."""
        make = self.module.methods(WORKLOADS[work])[method]
        self.module.forget()
        start = time.perf_counter()
        make()
        return {"compile": time.perf_counter() - start}

    def run(self, work: str, method: str) -> dict[str, list[float]]:
        """Warm runs: one, or as many as pass in a moment."""
        if method not in self.ready:  # this process replaces one that was killed
            self.ready[method] = self.module.methods(WORKLOADS[work])[method]()
            self.ready[method]()
        runs: list[float] = []
        while not runs or (sum(runs) < MOMENT and len(runs) < 10):
            start = time.perf_counter()
            self.ready[method]()
            runs.append(time.perf_counter() - start)
        return {"runs": runs}

    def infinite(self, work: str, count: int, to: str) -> dict[str, float]:
        """One run of a `kernel_fn` on so many examples; the first one compiles."""
        if work not in self.ready:
            self.ready[work] = infinite.prepared(INFINITE[work], self.module.stax, count)
        start = time.perf_counter()
        kernel = self.ready[work]()
        seconds = time.perf_counter() - start
        np.save(to, np.asarray(kernel))
        return {"seconds": seconds}

    def stages(self, work: str) -> dict[str, float]:
        """Seconds of the stages before the last, one after the other: the median of three runs."""
        found = {}
        for stage, make in self.module.stages(WORKLOADS[work]).items():
            run = make()
            times = []
            for _ in range(4):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            found[stage] = sorted(times[1:])[1]
        return found

    def drop(self) -> dict[str, Any]:
        """Free what was made for a row."""
        self.ready.clear()
        self.module.forget()
        gc.collect()
        return {}


def said(error: Exception) -> str:
    """A line that fits a table."""
    text = f"{type(error).__name__}: {error}"
    if any(word in text.lower() for word in ("out of memory", "allocate", "resource_exhausted")):
        return "not enough memory"
    return text.splitlines()[0][:80]


def main() -> None:
    """Answer until the driver closes the pipe; what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = Peer(sys.argv[1])
    print(json.dumps({"versions": peer.versions()}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": said(error)}
        print(json.dumps({"answer": answer}), file=answers, flush=True)


if __name__ == "__main__":
    main()
