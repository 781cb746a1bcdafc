"""The benchmark measures what it says: its networks, its methods, and what it writes."""

import json
from dataclasses import replace

import floor
import gpu
import infinite
import jax
import networks
import numpy as np
import on_jax
import peer_jax
import pytest
import report
from infinite import INFINITE
from workloads import WORKLOADS, Workload

import tangax as nt
from tangax import stax


def test_the_two_resnets_are_one():
    pytest.importorskip("flax")
    x = networks.inputs("resnet18", 1, 0)[:, :8, :8]
    (f, params), (g, same) = networks.resnet18(3), networks.resnet18_plain(3)
    np.testing.assert_allclose(f(params, x), g(same, x), rtol=1e-5)


@pytest.fixture
def short_rnn(monkeypatch):
    """The network `rnn` with few units, and three steps of its inputs."""
    short = networks.inputs("rnn", 3, 0)[:, :3]
    monkeypatch.setattr(networks, "inputs", lambda model, n, seed: short[:n] + seed)
    monkeypatch.setitem(networks.MODELS, "rnn", lambda outputs: networks.rnn(outputs, 64, 8))
    on_jax.arguments.cache_clear()
    yield
    on_jax.arguments.cache_clear()


def small(traced, m=None):
    return Workload("small", "rnn", 2, 2, m, traced)


@pytest.mark.parametrize("work", [small(True), small(False, 1)], ids=lambda w: w.shape)
@pytest.mark.usefixtures("short_rnn")
def test_peers_compute_the_same_kernel(work):
    f, params, x1, x2 = on_jax.arguments(work)
    expected = nt.empirical_ntk_fn(f, on_jax.trace_axes(work), vmap_axes=0)(x1, x2, params)
    for make in peer_jax.methods(work).values():
        np.testing.assert_allclose(make()(), expected, rtol=1e-4, atol=1e-4)


def test_a_floor_is_that_of_the_slower_resource():
    rate = {"macs": 10.0, "bytes": 100.0}
    assert floor.floor({"forward": 20, "contraction": 10, "bytes": 200}, rate) == 3
    assert floor.floor({"forward": 1, "bytes": 200}, rate) == 2


def method(peer, name, seconds, compiles=()):
    return {"peer": peer, "method": name, "runs": [seconds] * 3, "seconds": seconds} | (
        {"compiles": list(compiles)} if compiles else {}
    )


def test_what_is_short_is_said():
    work = replace(WORKLOADS["cnn 5x20 full"], goal=2, share=0.9, first=0.5)
    rows = [
        method("tangax", "auto", 1.0, (1, 1, 1)),
        method("tangax", "structured", 0.9),
        method("neural_tangents", "structured", 1.5, (1.5, 1.5, 1.5)),
        {"peer": "jax", "method": "jacobian", "runs": [], "error": "> 60 s"},
    ]
    figures = report.judged(work, rows, {"seconds": 0.5})
    assert (figures["best"], figures["speedup"], figures["share"]) == ("NT 3", 1.5, 0.5)
    short = report.shortfalls(work, figures)
    assert len(short) == 4 and "1.50 x the best peer, not 2" in short[0]
    met = replace(work, goal=1.5, share=0.5, first=0.7)
    assert not report.shortfalls(met, figures | {"choice": 1})


def test_results_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [method("tangax", "auto", 1.0), method("torch", "jacobian", 2.0)]
    results = {
        "date": "a day",
        "processor": "a processor",
        "cores": 2,
        "memory": 2**34,
        "versions": {"tangax": {"tangax": nt.__version__, "jax": jax.__version__}},
        "missing": {"netket": "no such thing"},
        "rates": {"macs": 1e10, "bytes": 1e10},
        "minutes": 1.0,
        "rows": {
            "cnn 5x20 full": {
                "methods": rows,
                "stages": {"forward": 0.1, "factors": 0.5},
                "rates": {"macs": 1e10, "bytes": 1e10},
                "floor": {"seconds": 0.6, "forward": 1e9, "backward": 3e9, "contraction": 2e9},
            }
        },
        "infinite": {
            "infinite cnn, pooled, 8x8": {
                "tangax": {"seconds": 2.0, "first": 3.0},
                "neural_tangents": {"seconds": 5.0, "first": 6.0},
            },
            "infinite mlp": {"tangax": {"seconds": 2.0, "first": 3.0}},
        },
    }
    report.write(results, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "**2.00x**" in text and "no such thing" in text
    assert "| cnn, pooled, 8x8 | 2 s | 5 s (100x100, scaled) | 2.50x | 3 s, 6 s |" in text
    assert "| mlp | - | - | - | - |" in text
    assert "| 0.1 (0.1) | 0.4 (0.3) | 0.5 (0.2) | 1 |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table[:3]}) == 1
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "results.png").stat().st_size > 10_000


def test_networks_of_infinite_width_are_what_their_names_say():
    work = replace(INFINITE["infinite cnn, pooled, 8x8"], n=4)
    assert work.images(0, 3).shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(work.images(0, 3), work.images(0, 4)[:3])
    kernel = infinite.prepared(work, stax, 3)()
    assert kernel.shape == (3, 3)
    net = INFINITE["infinite mlp"].build(stax)
    assert net.init_fn(jax.random.key(0), (2, 4, 4, 3))[0] == (2, 10)


@pytest.mark.parametrize("memory", ["", pytest.param("2GiB", marks=pytest.mark.full)])
@pytest.mark.usefixtures("short_rnn")
def test_rows_of_an_accelerator(memory, monkeypatch):
    work = Workload("small", "rnn", 2, 3, 2, memory=memory)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    rates = {precision: {"macs": 1e12, "bytes": 1e12} for precision in gpu.PRECISIONS}
    rows = gpu.measure(work, rates)
    names = ["Tangax"] if memory else ["Tangax", "JAX jacrev"]
    assert [row["method"] for row in rows] == names * len(gpu.PRECISIONS)
    assert all(0 < row["floor"] < row["seconds"] < row["first"] for row in rows)
    assert all(row["deviation"] < 1e-5 for row in rows)
    entry = {"shape": work.shape, "methods": rows}
    results = {"date": "today", "device": "it", "jax": "0", "tangax": "1", "flags": "--a=1"}
    text = gpu.page(results | {"rates": rates, "rows": {"small": entry}})
    assert text.count("| small | 3x2 full") == len(rows) and "XLA_FLAGS `--a=1`" in text
    faster = {**rows[0], "method": "it", "seconds": rows[0]["seconds"] / 2}
    entry["methods"] = [rows[0], faster]
    text = gpu.page(results | {"rates": rates, "rows": {"small": entry}})
    assert "- `small`, highest: it takes 0.50 of Tangax's time." in text
