"""What is written of the measurements: RESULTS.md, results.json and results.png."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from infinite import INFINITE
from workloads import WORKLOADS, Workload

NAMES = {
    "tangax": "Tangax",
    "jax": "JAX",
    "neural_tangents": "NT",
    "torch": "PyTorch",
    "netket": "NetKet",
}
SHORT = {
    ("neural_tangents", "jacobian"): "NT 1",
    ("neural_tangents", "vector products"): "NT 2",
    ("neural_tangents", "structured"): "NT 3",
    ("jax", "jacobian"): "JAX jacrev",
    ("jax", "vector products"): "JAX vjp, jvp",
    ("torch", "jacobian"): "PyTorch jacrev",
    ("torch", "vector products"): "PyTorch vjp, jvp",
    ("netket", "jacobian"): "NetKet",
    ("neural_tangents", "taylor"): "NT",
    ("tangax", "taylor"): "Tangax",
}

Row = dict[str, Any]


def title(row: Row) -> str:
    """`NT 3`."""
    key = row["peer"], row["method"]
    return SHORT.get(key, f"{NAMES[row['peer']]} {row['method']}")


def ours(rows: Sequence[Row]) -> Row:
    """What a user of Tangax gets."""
    return next(r for r in rows if r["peer"] == "tangax" and r["method"] in ("auto", "taylor"))


def timed(rows: Sequence[Row], *peers: str) -> list[Row]:
    """Those of the peers (of all others, if none is named) that ran, the fastest first."""
    kept = [
        r
        for r in rows
        if "seconds" in r and (r["peer"] in peers if peers else r["peer"] != "tangax")
    ]
    return sorted(kept, key=lambda r: r["seconds"])


def judged(work: Workload, rows: Sequence[Row], floor: dict[str, Any]) -> dict[str, Any]:
    """The figures that a row is judged by."""
    auto = ours(rows)
    if "seconds" not in auto:
        return {}
    others = [r for r in timed(rows) if not r["method"].startswith("batch")]
    batched = [r for r in timed(rows) if r["method"].startswith("batch")]
    choices = [r for r in timed(rows, "tangax") if r["method"] != "batch"]
    found: dict[str, Any] = {
        "seconds": auto["seconds"],
        "share": floor["seconds"] / auto["seconds"],
        "choice": auto["seconds"] / choices[0]["seconds"],
    }
    if others:
        found |= {"best": title(others[0]), "speedup": others[0]["seconds"] / auto["seconds"]}
    if batched:
        found["batched"] = batched[0]["seconds"] / auto["seconds"]
    third = [r for r in rows if title(r) == "NT 3" and r.get("compiles")]
    if third and auto.get("compiles"):
        found["first"] = median(auto["compiles"]) / median(third[0]["compiles"])
    return found


def shortfalls(work: Workload, figures: dict[str, Any]) -> list[str]:
    """What a row was to show and does not."""
    wanted = [
        ("speedup", max(1.0, work.goal), "x the best peer"),
        ("share", work.share, "of the floor"),
        ("batched", work.batch_goal, "x nt.batch"),
    ]
    found = [
        f"{figures[key]:.2f} {what}, not {goal:g}"
        for key, goal, what in wanted
        if goal is not None and key in figures and figures[key] < goal
    ]
    if figures.get("first", 0) > work.first:
        found.append(f"first call {figures['first']:.2f} of NT 3's, not {work.first:g}")
    if figures.get("choice", 1) > 1.05:
        found.append(f"AUTO takes {figures['choice']:.2f} of the best choice")
    return found


def line(work: Workload, rows: Sequence[Row], floor: dict[str, Any]) -> str:
    """One row, for the terminal."""
    figures = judged(work, rows, floor)
    if not figures:
        return f"{work.name}: {ours(rows)['error']}"
    short = "; ".join(shortfalls(work, figures))
    return (
        f"{work.name:20} {figures['seconds']:8.4f} s  {figures.get('speedup', 0):7.2f} x "
        f"{figures.get('best', 'nothing'):16} floor {figures['share']:.2f}"
        + (f"  SHORT: {short}" if short else "")
    )


def cell(row: Row, auto: Row) -> str:
    """`3.21x`, or why there is nothing."""
    if "seconds" not in row:
        return row.get("error", "-")
    return f"{row['seconds'] / auto['seconds']:.2f}x"


COLUMNS = [name for (peer, method), name in SHORT.items() if method != "taylor"]
# Where the time of rows that fall short goes, as it was found on the machine of 2026-11-26.
WHY = [
    "The MLP and Taylor rows are products of few rows with large matrices. XLA of JAX 0.12 and of "
    "0.4.25, on which Neural Tangents runs, differ there by machine: 20x3072 by 3072x2048 in 2.6 "
    "ms against 2.3 on that of 2026-11-26, in 7.4 against 4.2 on that of the day before, where the "
    "Taylor rows were at 0.75 to 0.92 of Neural Tangents' time. At any degree both do the same "
    "products: XLA merges those that nested derivatives repeat.",
    "",
    "`mixer`, `vit`, `gpt`: products of 80 to 128 rows with themselves reach 50 to 65 G "
    "multiply-adds a second where square ones reach 84, and fresh memory is dear: with large pages "
    "(docs/using.md) `gpt 64x64 full` takes 0.66 of the time, `vit` 0.9. Machines are "
    "noisy: `vit` was measured four times, 1.00, 1.07, 1.09 and 1.11 of PyTorch's.",
    "",
    "15 times `nt.batch` on `cnn 200x200` is below the floor; 3 times the best peer would be 0.86 "
    "of it, on `gpt 16x16` 0.96. First calls are XLA compiling for two thirds of their time.",
]


def table(results: dict[str, Any]) -> list[str]:
    """The rows as Markdown."""
    head = ["workload", "kernel", "Tangax", *COLUMNS, "nt.batch", "floor"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, entry in results["rows"].items():
        work, rows = WORKLOADS[name], entry["methods"]
        auto = ours(rows)
        if "seconds" not in auto:
            lines.append(
                f"| {work.model} | {work.shape} | {auto['error']} |" + " |" * (len(head) - 3)
            )
            continue
        others = [r for r in rows if r["peer"] != "tangax"]
        by_title = {"NT 1" if r["method"] == "taylor" else title(r): r for r in others}
        best = timed(rows)[:1]
        cells = []
        for column in COLUMNS:
            row = by_title.get(column, {})
            cells.append(f"**{cell(row, auto)}**" if row in best else cell(row, auto))
        batched = [r for r in timed(rows) if r["method"].startswith("batch")]
        cells.append(f"{cell(batched[0], auto)} ({batched[0]['method']})" if batched else "-")
        spread = f"{min(auto['runs']):.3g} to {max(auto['runs']):.3g}"
        share = judged(work, rows, entry["floor"])["share"]
        first = [work.model, work.shape, f"{auto['seconds']:.3g} s ({spread})"]
        lines.append(f"| {' | '.join([*first, *cells, f'{share:.2f}'])} |")
    return lines


def write(results: dict[str, Any], folder: Path) -> None:
    """All three files."""
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "RESULTS.md").write_text(page(results))
    picture(results, folder / "results.png")


def page(results: dict[str, Any]) -> str:
    """RESULTS.md."""
    rate = results["rates"]
    versions = "; ".join(
        f"{NAMES[peer]}: " + ", ".join(f"{name} {version}" for name, version in found.items())
        for peer, found in results["versions"].items()
    )
    lines = [
        "# Results",
        "",
        f"`make bench`, {results['date']}: {results['processor']}, {results['cores']} cores, "
        f"{results['memory'] / 2**30:.0f} GiB; float32. {versions}.",
        "",
        f"A 4096-square product runs at {2 * rate['macs'] / 1e9:.0f} GFLOP/s, a large array is "
        f"read at {rate['bytes'] / 1e9:.1f} GB/s, the faster of before and after the "
        'rows. "floor" is the share of that rate which Tangax reaches: multiply-adds of '
        "forward and backward passes and of the contraction in the orders that Tangax chose, "
        "over the rate of the product, or bytes over that of reading. Other columns: how many "
        "times Tangax's time a peer takes, medians of warm runs made in turn, or a single run "
        "where that takes three times as long as Tangax's, or 20 s; the best peer is bold. Every "
        'kernel was compared with Tangax\'s first. A limit ("> 15 s") counts compiling. '
        f"It took {results['minutes']:.0f} minutes.",
        "",
        *table(results),
        "",
        "![Speed-up over the best peer](results.png)",
        "",
        "## First calls",
        "",
        "Seconds to trace and compile, medians. Called outside `jit`, Tangax also compares `f` on "
        "two examples together and apart, and factors with `jax.vjp` of `f` (`check_vmap`); that "
        "is not in here.",
        "",
        *compiles(results),
        "",
        "## All choices",
        "",
        "Times of Tangax's implementations over that of the fastest.",
        "",
        *choices(results),
        "",
        "## Where the time goes",
        "",
        "Seconds of Tangax's stages, each beside its floor: multiply-adds over the rate of the "
        "product. Factors: backward passes, and `A` and `G` laid out. `ntk_fn.factors` writes all "
        "of them, which a kernel need not, so it may take longer than its share.",
        "",
        *stages(results),
        "",
        "## Short of what was wanted",
        "",
        *missed(results),
        "",
        *WHY,
        "",
        "## Infinite width",
        "",
        "The NTK of 500 images of CIFAR shape (pooled: 8x8 pixels) with 500 others, by `kernel_fn` "
        "of `stax`, under `jit`: seconds of a warm run, and of the first call, as it was measured.",
        "",
        *infinite_table(results),
    ]
    for peer, why in results["missing"].items():
        lines += ["", f"{NAMES[peer]} could not be installed: {why}"]
    return "\n".join(lines) + "\n"


def infinite_table(results: dict[str, Any]) -> list[str]:
    """Kernels in the limit."""
    lines = ["| network | Tangax | NT | ratio | first calls |", "|---" * 5 + "|"]
    for name, entry in results["infinite"].items():
        ours, theirs = entry.get("tangax", {}), entry.get("neural_tangents", {})
        if "seconds" not in ours or "seconds" not in theirs:
            cells = [ours.get("error", "-"), theirs.get("error", "-"), "-", "-"]
        else:
            cells = [f"{ours['seconds']:.3g} s", f"{theirs['seconds']:.3g} s"]
            part = INFINITE[name].part
            if part < INFINITE[name].n:
                cells[1] += f" ({part}x{part}, scaled)"
            cells.append(f"{theirs['seconds'] / ours['seconds']:.2f}x")
            cells.append(f"{ours['first']:.3g} s, {theirs['first']:.3g} s")
        lines.append(f"| {name.removeprefix('infinite ')} | {' | '.join(cells)} |")
    return lines


def infinite_line(name: str, entry: dict[str, Any]) -> str:
    """One row, for the terminal."""
    seconds = {peer: f"{entry[peer].get('seconds', 0):.4g} s" for peer in entry if peer in NAMES}
    return f"{name}: {seconds}, differing by {entry.get('deviation', float('nan')):.0e}"


def compiles(results: dict[str, Any]) -> list[str]:
    """First calls of AUTO and of implementation 3 of Neural Tangents."""
    lines = ["| workload | Tangax | NT 3 | ratio |", "|---|---|---|---|"]
    for name, entry in results["rows"].items():
        auto = ours(entry["methods"])
        third = [r for r in entry["methods"] if title(r) == "NT 3"]
        if not auto.get("compiles"):
            continue
        mine = median(auto["compiles"])
        if third and third[0].get("compiles"):
            theirs = median(third[0]["compiles"])
            lines.append(f"| {name} | {mine:.2f} | {theirs:.2f} | {mine / theirs:.2f} |")
        else:
            why = third[0].get("error", "-") if third else "-"
            lines.append(f"| {name} | {mine:.2f} | {why} | |")
    return lines


def choices(results: dict[str, Any]) -> list[str]:
    """Every implementation of Tangax."""
    names = ("auto", "jacobian", "vector products", "structured")
    lines = ["| workload | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, entry in results["rows"].items():
        found = {r["method"]: r for r in entry["methods"] if r["peer"] == "tangax"}
        if "auto" not in found or "seconds" not in found["auto"]:
            continue
        fastest = next(r for r in timed(entry["methods"], "tangax") if r["method"] != "batch")
        lines.append(
            f"| {name} | " + " | ".join(cell(found.get(n, {}), fastest) for n in names) + " |"
        )
    return lines


def stages(results: dict[str, Any]) -> list[str]:
    """Forward passes, factors, contraction."""
    lines = ["| workload | forward | factors | contraction | all |", "|---" * 5 + "|"]
    for name, entry in results["rows"].items():
        rate = entry["rates"]["macs"]
        found, floor, auto = entry["stages"], entry["floor"], ours(entry["methods"])
        if "factors" not in found or "seconds" not in auto:
            continue
        ends = [0.0, found["forward"], found["factors"], auto["seconds"]]
        counted = ("forward", "backward", "contraction")
        cells = [
            f"{max(0.0, b - a):.3g} ({floor[stage] / rate:.3g})"
            for a, b, stage in zip(ends, ends[1:], counted, strict=False)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {auto['seconds']:.3g} |")
    return lines


def missed(results: dict[str, Any]) -> list[str]:
    """Rows that fall short, by how much."""
    lines = []
    for name, entry in results["rows"].items():
        work = WORKLOADS[name]
        figures = judged(work, entry["methods"], entry["floor"])
        if not figures:
            lines.append(f"- `{name}`: {ours(entry['methods'])['error']}.")
        lines += [f"- `{name}`: {what}." for what in shortfalls(work, figures)]
    ratio = per_pair(results)
    if ratio is not None and ratio > 1.3:
        lines.append(f"- `stream`: a pair takes {ratio:.2f} times as long to disk, not 1.3.")
    lines += [f"- `{name}`: not measured yet." for name in WORKLOADS if name not in results["rows"]]
    return lines or ["Nothing."]


def per_pair(results: dict[str, Any]) -> float | None:
    """The time of a pair of the large kernel on disk over that of the kernel in memory."""
    names = ("stream 2000x2000", "stream 1000x1000")
    entries = [results["rows"].get(name) for name in names]
    if not all(entry and "seconds" in ours(entry["methods"]) for entry in entries):
        return None
    disk, memory = (
        ours(entry["methods"])["seconds"] / WORKLOADS[name].pairs
        for name, entry in zip(names, entries, strict=True)
    )
    return disk / memory


def picture(results: dict[str, Any], path: Path) -> None:
    """Speed-up over every peer's best method, one bar each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    peers = [p for p in NAMES if p != "tangax"]
    rows = [
        (name, entry["methods"])
        for name, entry in results["rows"].items()
        if "seconds" in ours(entry["methods"])
    ]
    height = 0.8 / len(peers)
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(rows) + 1.2), layout="constrained")
    for a, peer in enumerate(peers):
        places, values = [], []
        for r, (_, methods) in enumerate(rows):
            found = timed(methods, peer)
            if found:
                places.append(r + (a - (len(peers) - 1) / 2) * height)
                values.append(found[0]["seconds"] / ours(methods)["seconds"])
        axes.barh(places, values, height, label=NAMES[peer].replace("NT", "Neural Tangents"))
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", yticks=range(len(rows)), yticklabels=[name for name, _ in rows])
    axes.set_xlabel("time of each peer's best method over Tangax's time (log)")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
