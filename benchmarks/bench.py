"""Tangax and its peers on the same work, in turn: RESULTS.md, results.json, results.png.

    python bench.py                 every row
    python bench.py --only gpt      those whose name contains a word
    python bench.py --only gpt --write      and put them in the place of those measured before

A method is prepared (compiled, run once, its kernel compared with Tangax's) and then run in turn
with all others: A B C A B C. What would need more memory than there is, or takes too long, is left
out, and the table says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
from environments import HERE, PEERS, made, python_of
from infinite import INFINITE, Infinite
from tqdm import tqdm
from workloads import WORKLOADS, Workload

# Seconds to compile; for all warm runs of a method; of rounds there are as many.
LIMIT, ENOUGH, ROUNDS = 15.0, 2.0, 5
# The limit for methods whose time to compile is compared.
PATIENCE = 20.0
# A method whose first run, compiled before, is this many times Tangax's is not run again; nor is
# one that takes as many seconds.
HOPELESS, SLOW = 3, 20.0
# Seconds: what takes longer to compile is compiled once.
LONG = 4.0
# Of a kernel's largest entry.
TOLERANCE = 1e-3
# First calls, each anew, of the methods whose time to compile is compared.
COMPILED = {("tangax", "auto"), ("neural_tangents", "structured")}


class Worker:
    """A peer's process, which is started again after it was killed for taking too long."""

    def __init__(self, peer: str, errors: Path) -> None:
        self.peer, self.errors = peer, errors
        self.pipes: Any = None
        self.versions = self.start()

    def start(self) -> dict[str, str]:
        """Its versions."""
        env = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.pipes = subprocess.Popen(
            [python_of(PEERS[self.peer]), HERE / "worker.py", self.peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors.open("a"),
            text=True,
            env=env,
        )
        answer = self.pipes.stdout.readline()
        if not answer:
            raise RuntimeError(f"The {self.peer} worker did not start:\n{self.errors.read_text()}")
        return json.loads(answer)["versions"]

    def ask(self, limit: float = 600.0, **request: Any) -> dict[str, Any]:
        """The answer, or `{"error": ...}`."""
        if self.pipes.poll() is not None:
            self.start()
        timer = threading.Timer(limit, self.pipes.kill)
        timer.start()
        try:
            self.pipes.stdin.write(json.dumps(request) + "\n")
            self.pipes.stdin.flush()
            answer = self.pipes.stdout.readline()
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not answer:
            self.pipes.wait()
            return {"error": f"> {limit:.0f} s" if late else "the process died (memory?)"}
        return json.loads(answer)["answer"]

    def stop(self) -> None:
        """End it."""
        self.pipes.kill()


def too_much(work: Workload, method: str, size: int, free: float, seconds: float) -> str | None:
    """Why a method is not tried: whole Jacobians that do not fit, or passes that take too long.

    `seconds`: of the forward passes of all examples at the rate of a matrix product.
    """
    n, m = work.n, work.m or work.n
    if work.degree or method not in ("jacobian", "vector products"):
        return None
    jacobians = 4 * (n + (work.m or 0)) * work.outputs * size
    if method == "jacobian" and 3 * jacobians > free:  # they, and copies for products
        return f"Jacobians of {jacobians / 1e9:.0f} GB"
    passes = 2 * n * m * work.outputs * seconds / (n + (work.m or 0))
    if method == "vector products" and passes > LIMIT / 5:
        return f"> {passes:.0f} s by count"
    return None


def measure(
    work: Workload, workers: dict[str, Worker], free: float, seconds: float
) -> dict[str, Any]:
    """Every method of every peer on one row, Tangax's first; and the stages of that."""
    size = int(workers["tangax"].ask(do="size", work=work.name)["size"])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        to = f"{folder}/kernel.npy"
        for peer, worker in workers.items():
            for method in worker.ask(do="methods", work=work.name)["methods"]:
                row: dict[str, Any] = {"peer": peer, "method": method, "runs": [], "compiles": []}
                why = too_much(work, method, size, free, seconds)
                row |= {"error": why} if why else prepared(row, rows, worker, work, to)
                rows.append(row)
                if "error" not in row and "error" not in rows[0]:
                    check(row, rows[0], np.load(to))
    run(rows, workers, work)
    if not work.degree and not work.memory:
        compile_anew(rows, workers, work)
    stages = workers["tangax"].ask(LIMIT, do="stages", work=work.name)
    for row in rows:
        row.pop("kernel", None)
    for worker in workers.values():
        worker.ask(do="drop")
    return {"methods": rows, "stages": stages}


def prepared(
    row: dict[str, Any], before: list[dict[str, Any]], worker: Worker, work: Workload, to: str
) -> dict[str, Any]:
    """Times of compiling and of the first run; the kernel is in the file `to`."""
    # Tangax's other choices need but be slower.
    times = 1 if row["peer"] == "tangax" else HOPELESS
    limit = LIMIT + times * (before[0].get("first", 0.0) if before else 0.0)
    if (row["peer"], row["method"]) in COMPILED:
        limit = max(limit, 10 * PATIENCE if work.memory else PATIENCE)
    return worker.ask(limit, do="prepare", work=work.name, method=row["method"], to=to)


def check(row: dict[str, Any], ours: dict[str, Any], kernel: np.ndarray) -> None:
    """Compare a kernel with Tangax's; note what is too slow to be run again."""
    row["kernel"] = kernel
    reference = ours["kernel"]
    row["deviation"] = float(np.abs(kernel - reference).max() / np.abs(reference).max())
    if not row["deviation"] < TOLERANCE:
        row["error"] = f"differs by {row['deviation']:.0e}"
    elif row["first"] > min(SLOW, HOPELESS * max(ours["first"], 0.1)):
        row["runs"] = [row["first"]]


def run(rows: list[dict[str, Any]], workers: dict[str, Worker], work: Workload) -> None:
    """Warm runs of all methods in turn, each round beginning with the next: the first is colder."""
    running = [row for row in rows if "error" not in row and not row["runs"]]
    for turn in range(ROUNDS):
        first = turn % max(1, len(running))
        for row in running[first:] + running[:first]:
            if sum(row["runs"]) < ENOUGH and "error" not in row:
                answer = workers[row["peer"]].ask(do="run", work=work.name, method=row["method"])
                row["runs"] += answer.pop("runs", [])
                row |= answer
    for row in rows:
        if row["runs"]:
            row["seconds"] = statistics.median(row["runs"])


def compile_anew(rows: list[dict[str, Any]], workers: dict[str, Worker], work: Workload) -> None:
    """First calls in turn, of the methods whose time to compile is compared."""
    compared = [
        row for row in rows if (row["peer"], row["method"]) in COMPILED and "error" not in row
    ]
    quick = [row for row in compared if row["compile"] <= LONG]
    for row in compared:
        row["compiles"] = [] if row in quick else [row["compile"]]
    for _ in range(3):
        for row in quick:
            request = {"do": "compile", "work": work.name, "method": row["method"]}
            row["compiles"].append(workers[row["peer"]].ask(**request)["compile"])


def infinite(work: Infinite, workers: dict[str, Worker]) -> dict[str, Any]:
    """Seconds of a `kernel_fn`: the first call, and warm ones in turn."""
    peers = {"tangax": work.n, "neural_tangents": work.part}
    found: dict[str, Any] = {peer: {"runs": []} for peer in peers if peer in workers}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(1 + ROUNDS):
            for peer, entry in found.items():
                if "error" in entry or sum(entry["runs"]) > ENOUGH:
                    continue
                to = f"{folder}/{peer}.npy"
                count = peers[peer]
                answer = workers[peer].ask(do="infinite", work=work.name, count=count, to=to)
                if "error" in answer:
                    entry["error"] = answer["error"]
                    continue
                if turn == 0:
                    entry["first"] = answer["seconds"]
                else:
                    entry["runs"].append(answer["seconds"] * (work.n / count) ** 2)
        kernels = {p: np.load(f"{folder}/{p}.npy") for p in found if found[p]["runs"]}
    if len(kernels) == 2:
        ours, theirs = kernels["tangax"], kernels["neural_tangents"]
        ours = ours[: len(theirs), : len(theirs)]
        found["deviation"] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    for peer in peers:
        if found.get(peer, {}).get("runs"):
            found[peer]["seconds"] = statistics.median(found[peer]["runs"])
    for worker in workers.values():
        worker.ask(do="drop")
    return found


def scaled(work: Workload, rows: dict[str, Any]) -> list[dict[str, Any]]:
    """What `nt.batch` would take, from a smaller row."""
    smaller = rows.get(work.scaled, {"methods": []})["methods"]
    times = work.pairs / WORKLOADS[work.scaled].pairs if work.scaled else 1
    return [
        {**row, "method": f"{row['method']}, scaled", "seconds": times * row["seconds"]}
        for row in smaller
        if row["peer"] == "neural_tangents" and "batch" in row["method"] and "seconds" in row
    ]


def floors(names: list[str]) -> dict[str, Any]:
    """Rates of this machine now, and the floor of every row."""
    run = subprocess.run(
        [python_of("tangax"), HERE / "floor.py", *names],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    return json.loads(run.stdout.splitlines()[-1])


def free_memory() -> float:
    """Bytes, with what the system's caches would give back."""
    sizes = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024.0 * int(sizes["MemAvailable"].split()[0])


def processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Measure, then write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--write", action="store_true", help="write them among those of before")
    options = parser.parse_args()
    names = [name for name in WORKLOADS if options.only in name]
    limits = [work for name, work in INFINITE.items() if options.only in name]
    if not names and not limits:
        every = ", ".join([*WORKLOADS, *INFINITE])
        parser.error(f"no row contains {options.only!r}; there are: {every}")
    start, written = time.time(), HERE / "results.json"
    before: dict[str, Any] = {"rows": {}, "infinite": {}, "minutes": 0.0}
    if options.only and options.write and written.exists():
        before = json.loads(written.read_text())
    missing: dict[str, str] = {}
    for name in tqdm(sorted(set(PEERS.values())), desc="environments", leave=False):
        try:
            made(name)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            if name == "tangax":
                raise
            missing |= {peer: str(error) for peer, where in PEERS.items() if where == name}
    with tempfile.TemporaryDirectory() as folder:
        workers = {p: Worker(p, Path(folder, p)) for p in PEERS if p not in missing}
        free = free_memory()
        first = floors(names)
        results: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "versions": {peer: worker.versions for peer, worker in workers.items()},
            "missing": missing,
            "rates": first["rates"],
            "rows": before["rows"],
            "infinite": before["infinite"],
        }
        progress = tqdm(names, unit="row")
        for name in progress:
            progress.set_postfix_str(name)
            floor = first["rows"][name]
            forward = floor["forward"] / first["rates"]["macs"]
            found = measure(WORKLOADS[name], workers, free, forward)
            found |= {"floor": floor, "rates": first["rates"]}
            found["methods"] += scaled(WORKLOADS[name], results["rows"])
            tqdm.write(report.line(WORKLOADS[name], found["methods"], floor))
            rows = results["rows"] | {name: found}
            results["rows"] = {name: rows[name] for name in WORKLOADS if name in rows}
            results["minutes"] = before["minutes"] + (time.time() - start) / 60
            if not options.only or options.write:  # every time: a run that is stopped has told
                report.write(results, HERE)
        for work in limits:
            results["infinite"][work.name] = infinite(work, workers)
            tqdm.write(report.infinite_line(work.name, results["infinite"][work.name]))
            results["minutes"] = before["minutes"] + (time.time() - start) / 60
            if not options.only or options.write:
                report.write(results, HERE)
        for worker in workers.values():
            worker.stop()
    settle(results, names)
    if not options.only or options.write:
        report.write(results, HERE)


def settle(results: dict[str, Any], names: list[str]) -> None:
    """The floors once more: machines drift, and what is faster is nearer to what they can do."""
    if not names:
        return
    again = floors(names)
    for name in names:
        entry = results["rows"][name]
        if again["rates"]["macs"] > entry["rates"]["macs"]:
            entry |= {"floor": again["rows"][name], "rates": again["rates"]}
            results["rates"] = again["rates"]


if __name__ == "__main__":
    main()
