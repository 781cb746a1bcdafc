"""Kernels on disk: what is written, what a run that was stopped leaves, and what is refused."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from support.arrays import assert_equal, uniform
from support.images import PARAMS, X1, X2, conv, exact_ntk, two

import tangax as nt
from tangax._blocks import fill
from tangax._blocks.place import locked
from tangax._blocks.store import OnDisk

# Without the checks of the first call, of which `tests/empirical` has the tests.
UNCHECKED = {"vmap_axes": 0, "check_vmap": False}
NTK = nt.empirical_ntk_fn(conv, **UNCHECKED)


def naive(other=False, **axes):
    return exact_ntk(other=other, **({"trace_axes": (-1,)} | axes))


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory):
    return tmp_path_factory.mktemp("stores") / "kernel.zarr"


@pytest.fixture
def path(shared_place):
    """Where nothing is yet; the same for all tests, so that `kept` is compiled once."""
    shutil.rmtree(shared_place.parent, ignore_errors=True)
    shared_place.parent.mkdir()
    return shared_place


@pytest.fixture(scope="module")
def at_place(shared_place):
    return nt.batch(NTK, 3, store=shared_place)


@pytest.fixture
def kept(path, at_place):
    """A kernel function whose store is at `path`."""
    return at_place


IN_MEMORY = nt.batch(NTK, 3)


@functools.cache
def whole(other=False):
    return IN_MEMORY(X1, X2 if other else None, PARAMS)


@pytest.fixture
def tiles(monkeypatch):
    """How many tiles were computed."""
    found = []

    class Counting(fill.Halved):
        def tile(self, first, second):
            found.append(1)
            return super().tile(first, second)

    monkeypatch.setattr(fill, "Halved", Counting)
    return found


@pytest.mark.parametrize(
    "axes, other",
    [
        ({}, False),
        ({"trace_axes": ()}, True),
        pytest.param({}, True, marks=pytest.mark.full),
        pytest.param({"trace_axes": ()}, False, marks=pytest.mark.full),
    ],
)
def test_a_kernel_on_disk(path, axes, other):
    make, x2 = partial(nt.empirical_ntk_fn, conv, **UNCHECKED, **axes), X2 if other else None
    found = nt.batch(make(), 3, store=path)(X1, x2, PARAMS)
    assert isinstance(found, zarr.Array) and found.read_only
    assert found.metadata.zarr_format == 3
    assert found.chunks == (3, 3, 4, 4)[: found.ndim]
    in_memory = nt.batch(make(), 3)(X1, x2, PARAMS)
    np.testing.assert_array_equal(found[...], in_memory)
    assert_equal(found[...], naive(other, **axes))
    np.testing.assert_array_equal(zarr.open(path, mode="r")["ntk"][...], in_memory)
    loaded = nt.load_kernel(str(path))
    np.testing.assert_array_equal(loaded[...], in_memory)
    manifest = loaded.attrs["tangax"]
    assert manifest["fingerprint"]["kernels"] == "ntk"
    assert manifest["examples"] == [7, 5 if other else 7]
    assert {p.name for p in path.parent.iterdir()} <= {"kernel.zarr", "kernel.zarr.lock"}


def test_diagonals_several_outputs_both_kernels(path):
    make = lambda **axes: nt.empirical_kernel_fn(  # noqa: E731
        two, vmap_axes=(0, {"a": 0, "b": 1}, {}), check_vmap=False, **axes
    )
    kernel_fn = make(trace_axes=())
    found = nt.batch(kernel_fn, 2, store=path)(X1, X2, None, PARAMS)
    expected = kernel_fn(X1, X2, None, PARAMS)
    jax.tree.map(lambda a, b: assert_equal(a[...], b), found, expected)
    loaded = nt.load_kernel(path)
    assert loaded._fields == ("nngp", "ntk")
    assert list(loaded.ntk) == ["f(params, x)['a']", "f(params, x)['b']"]
    np.testing.assert_array_equal(loaded.ntk["f(params, x)['b']"][...], found.ntk["b"][...])
    diagonal_fn = nt.empirical_ntk_fn(conv, diagonal_axes=(0,), **UNCHECKED)
    diagonal = nt.batch(diagonal_fn, 2, store=path.with_name("d"))(X1, None, PARAMS)
    assert_equal(diagonal[...], naive(diagonal_axes=(0,)))
    assert nt.load_kernel(path.with_name("d")).shape == (7,)


def test_a_zarr_store_object(tiles):
    store = zarr.storage.MemoryStore()
    ntk_fn = nt.batch(NTK, 3, store=store)
    assert_equal(ntk_fn(X1, None, PARAMS)[...], naive())
    assert len(tiles) == 6
    assert_equal(ntk_fn(X1, None, PARAMS)[...], naive())
    assert len(tiles) == 6
    assert nt.load_kernel(store).shape == (7, 7)


def stop_after(monkeypatch, count, error):
    """Let so many chunks be written, then fail as a full disk does; or so many tiles, by Ctrl-C."""
    if isinstance(error, KeyboardInterrupt):
        return interrupt_after(monkeypatch, count // 2)
    local = zarr.storage.LocalStore
    real, left = local.set, [count]

    async def set(self, key, value):
        if "/c/" in key:
            if not left[0]:
                raise error
            left[0] -= 1
        await real(self, key, value)

    monkeypatch.setattr(local, "set", set)


def interrupt_after(monkeypatch, count):
    real, left = OnDisk.write, [count]

    def write(self, index, parts):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(self, index, parts)

    monkeypatch.setattr(OnDisk, "write", write)


FULL_DISK = OSError(28, "No space left on device")
# Each pair of a number of tiles, an error and a second input once.
STOPPED = [
    pytest.param(count, error, other, marks=() if (c + e + other) % 2 == 0 else pytest.mark.full)
    for c, count in enumerate((0, 1, 4, 5))
    for e, error in enumerate((FULL_DISK, KeyboardInterrupt()))
    for other in (False, True)
]


@pytest.mark.parametrize("count, error, other", STOPPED)
def test_a_run_that_was_stopped_continues(path, kept, tiles, monkeypatch, count, error, other):
    x2, expected, every = X2 if other else None, whole(other), 6
    with monkeypatch.context() as patch:
        stop_after(patch, count, error)
        full = isinstance(error, OSError)
        told = "could not be written .*No space left.*continues" if full else None
        with pytest.raises(type(error), match=told) as caught:
            kept(X1, x2, PARAMS)
        assert str(path) in str(caught.value) or not full
    with pytest.raises(ValueError, match=r"unfinished: \d of \d tiles"):
        nt.load_kernel(path)
    # Every tile is a chunk and its mark, twice where it has a transpose.
    tiles.clear()
    np.testing.assert_array_equal(kept(X1, x2, PARAMS)[...], expected)
    if count >= 4:
        assert len(tiles) < every
    tiles.clear()
    np.testing.assert_array_equal(kept(X1, x2, PARAMS)[...], expected)
    assert not tiles


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied", "removed"])
@pytest.mark.parametrize("place", ["0/0", "0/2", "2/2"])
def test_a_damaged_tile_is_computed_again(path, kept, tiles, damage, place):
    expected = kept(X1, None, PARAMS)[...]
    tiles.clear()
    file = path / "ntk" / "c" / place
    good = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        flipped = bytes([good[0] ^ 1]) + good[1:]
        file.write_bytes({"flipped": flipped, "truncated": good[:9], "emptied": b""}[damage])
    np.testing.assert_array_equal(kept(X1, None, PARAMS)[...], expected)
    assert len(tiles) == 1
    assert file.read_bytes() == good


def test_a_file_that_is_missing(path, kept):
    kept(X1, None, PARAMS)
    (path / "ntk" / "c" / "1" / "2").unlink()
    with pytest.raises(ValueError, match="files of ntk are missing"):
        nt.load_kernel(path)
    kept(X1, None, PARAMS)
    assert_equal(nt.load_kernel(path)[...], naive())


def test_what_f_closes_over_is_what_the_store_holds(path):
    """As when batch statistics are replaced between two calls of one function."""
    scale = [1.0]
    ntk_fn = nt.batch(
        nt.empirical_ntk_fn(lambda p, x: conv(p, x) * scale[0], **UNCHECKED), 3, store=path
    )
    ntk_fn(X1, None, PARAMS)
    scale[0] = 3.0
    with pytest.raises(ValueError, match="these differ: function"):
        ntk_fn(X1, None, PARAMS)
    shutil.rmtree(path)
    assert_equal(ntk_fn(X1, None, PARAMS)[...], 9 * naive())


def test_a_damaged_list_of_tiles(path, kept, tiles):
    expected = kept(X1, None, PARAMS)[...]
    (path / "tiles" / "c" / "0" / "0").write_bytes(b"none")
    tiles.clear()
    np.testing.assert_array_equal(kept(X1, None, PARAMS)[...], expected)
    assert len(tiles) == 3


def changed(**options):
    return nt.empirical_ntk_fn(conv, **(UNCHECKED | options))


OTHERS = {
    "x1": (NTK, X1 + 1, None, PARAMS),
    "x2": (NTK, X1, X2, PARAMS),
    "parameters": (NTK, X1, None, PARAMS | {"b": PARAMS["b"] + 1}),
    "function": (nt.empirical_ntk_fn(lambda p, x: 2 * conv(p, x), **UNCHECKED), X1, None, PARAMS),
    "trace_axes": (changed(trace_axes=()), X1, None, PARAMS),
    "diagonal_axes": (changed(diagonal_axes=(0,)), X1, None, PARAMS),
    "precision": (changed(precision="default"), X1, None, PARAMS),
    "implementation": (changed(implementation=3), X1, None, PARAMS),
    "kernels": (nt.empirical_nngp_fn(conv), X1, None, PARAMS),
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_store_of_another_kernel(path, kept, what):
    kept(X1, None, PARAMS)
    kernel_fn, x1, x2, params = OTHERS[what]
    with pytest.raises(ValueError, match=rf"holds another kernel: these differ: .*{what}"):
        nt.batch(kernel_fn, 3, store=path)(x1, x2, params)


def test_other_blocks_and_rules_and_constants(path, kept):
    kept(X1, None, PARAMS)
    for use in (nt.batch(NTK, 2, store=path), nt.batch(NTK, 2, store=path).explain):
        with pytest.raises(ValueError, match="tiles of 3 examples, and batch_size is 2"):
            use(X1, None, PARAMS)
    # Whatever memory there is now, the blocks are those of the store.
    np.testing.assert_array_equal(
        nt.batch(NTK, memory="400MiB", store=path)(X1, None, PARAMS)[...],
        nt.batch(NTK, 3)(X1, None, PARAMS),
    )
    c = uniform(0, 4)
    one, other = (
        nt.empirical_ntk_fn(lambda p, x, c=c: conv(p, x) * c, **UNCHECKED) for c in (c, c + 1)
    )
    nt.batch(one, 3, store=path.with_name("c"))(X1, None, PARAMS)
    with pytest.raises(ValueError, match="these differ: function"):
        nt.batch(other, 3, store=path.with_name("c"))(X1, None, PARAMS)

    def with_rule(slope):
        @jax.custom_jvp
        def act(x):
            return jnp.tanh(x)

        act.defjvp(lambda primals, tangents: (act(*primals), slope * tangents[0]))
        return nt.empirical_ntk_fn(lambda p, x: act(conv(p, x)), **UNCHECKED)

    nt.batch(with_rule(1.0), 3, store=path.with_name("r"))(X1, None, PARAMS)
    with pytest.raises(ValueError, match="these differ: function"):
        nt.batch(with_rule(2.0), 3, store=path.with_name("r"))(X1, None, PARAMS)


def test_rules_of_derivation_in_a_loop(path):
    """Forward mode alone goes through it, and meets the rule."""

    def looped(slope):
        act = jax.custom_jvp(jnp.tanh)
        act.defjvp(lambda p, t: (act(*p), slope * t[0]))
        step = lambda s: (s[0] + 1, act(s[1]))  # noqa: E731
        f = lambda p, x: jax.lax.while_loop(lambda s: s[0] < 2, step, (0, conv(p, x)))[1]  # noqa: E731
        return nt.empirical_ntk_fn(f, **UNCHECKED)

    found = nt.batch(looped(2.0), 3, store=path)(X1, None, PARAMS)
    assert_equal(found[...], nt.batch(looped(2.0), 3)(X1, None, PARAMS))
    np.testing.assert_array_equal(
        nt.batch(looped(2.0), 3, store=path)(X1, None, PARAMS)[...], found[...]
    )
    with pytest.raises(ValueError, match="these differ: function"):
        nt.batch(looped(3.0), 3, store=path)(X1, None, PARAMS)


def test_a_function_that_cannot_be_told_is_refused(path):
    def calling(g):
        def f(params, x):
            y = conv(params, x)
            shape, given = jax.ShapeDtypeStruct(y.shape, y.dtype), jax.lax.stop_gradient(y)
            return y * jax.pure_callback(g, shape, given, vmap_method="expand_dims")

        return nt.empirical_ntk_fn(f, **UNCHECKED)

    own, numpys = calling(lambda y: np.cos(y)), calling(np.cos)
    with pytest.raises(
        ValueError, match=r"'pure_callback' at test_store.py:\d+ calls .*store= out"
    ):
        nt.batch(own, 3, store=path)(X1, None, PARAMS)
    assert not path.exists()
    found = nt.batch(numpys, 3, store=path)(X1, None, PARAMS)
    assert_equal(found[...], nt.batch(own, 3)(X1, None, PARAMS))


def test_a_refused_function_leaves_no_store(path):
    mixing = nt.empirical_ntk_fn(lambda p, x: conv(p, x - x.mean(0)), vmap_axes=0)
    with pytest.raises(ValueError, match="f mixes examples"):
        nt.batch(mixing, 3, store=path)(X1, None, PARAMS)
    assert_equal(nt.batch(NTK, np.int64(3), store=path)(X1, None, PARAMS)[...], naive())


def test_the_precision_of_an_nngp(path):
    nt.batch(nt.empirical_nngp_fn(conv), 3, store=path)(X1, None, PARAMS)
    with pytest.raises(ValueError, match="these differ: precision"):
        other = nt.empirical_nngp_fn(conv, precision="default")
        nt.batch(other, 3, store=path)(X1, None, PARAMS)


def test_a_finished_store_needs_no_memory(path, kept, tiles):
    kept(X1, None, PARAMS)
    tiles.clear()
    less = nt.batch(NTK, memory=1, store=path)
    assert_equal(less(X1, None, PARAMS)[...], naive())
    assert not tiles
    assert nt.batch(NTK, store=path).explain(X1, None, PARAMS).recipe.block == 3


FINGERPRINT = """
import jax, jax.numpy as jnp, numpy as np, tangax as nt
act = jax.custom_jvp(lambda x: jnp.tanh(x))
act.defjvp(lambda p, t: (act(*p), t[0]))
params = {"act": jax.nn.relu, "own": act, "w": np.ones((3, 2), np.float32)}
f = lambda p, x, kind: p["own"](p["act"](x @ p["w"]))
x = np.ones((4, 3), np.float32)
ntk_fn = nt.batch(nt.empirical_ntk_fn(f, vmap_axes=0, check_vmap=False), 2, store=%r)
print(ntk_fn(x, None, params, kind="some").shape)
"""


def test_functions_among_parameters_are_the_same_in_another_process(path, capsys):
    exec(FINGERPRINT % str(path), {})
    assert capsys.readouterr().out == "(4, 4)\n"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "PYTHONHASHSEED": "1"}
    run = [sys.executable, "-c", FINGERPRINT % str(path)]
    found = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert found.stdout == "(4, 4)\n", found.stderr


def test_what_a_run_that_was_killed_at_once_leaves(path, kept):
    path.mkdir()
    (path / "zarr.0123.partial").write_bytes(b"{")
    kept(X1, None, PARAMS)
    shutil.rmtree(path / "tiles")
    with pytest.raises(ValueError, match="unfinished"):
        nt.load_kernel(path)
    assert_equal(kept(X1, None, PARAMS)[...], naive())
    (path / "zarr.json").write_text("")
    for use in (lambda: kept(X1, None, PARAMS), lambda: nt.load_kernel(path)):
        with pytest.raises(ValueError, match=r"damaged: zarr\.json"):
            use()


def small():
    """A kernel of two outputs that is quickly computed, and its arguments."""
    f = lambda p, x: (x @ p["w"], jnp.tanh(x @ p["w"]))  # noqa: E731
    return nt.empirical_kernel_fn(f, **UNCHECKED), (
        uniform(0, 5, 3),
        None,
        ("ntk",),
        {"w": uniform(1, 3, 2)},
    )


def edited(value, rng):
    """Some part of a JSON value replaced by something of another kind."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: edited(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [edited(v, rng) if i == at else v for i, v in enumerate(value)]
    others = [None, [], {}, 7, -1, 10**9, 0.5, True, "", "float16", "x", [3], {"name": "gzip"}]
    return rng.choice([v for v in others if v != value])


def edits(text, rng):
    """Damages of a metadata file by name."""
    whole = json.loads(text)
    yield from {
        "empty": "",
        "none": "null",
        "list": "[]",
        "object": "{}",
        "no JSON": "\xff{",
    }.items()
    yield "half", text[: len(text) // 2]
    yield "format 2", json.dumps(whole | {"zarr_format": 2})
    for key in whole:
        yield f"no {key}", json.dumps({k: v for k, v in whole.items() if k != key})
    for i in range(12):
        yield f"edit {i}", json.dumps(edited(whole, rng))
    for i in range(6):
        at = rng.randrange(len(text))
        yield f"byte {i}", text[:at] + chr(rng.randrange(32, 127)) + text[at + 1 :]


@pytest.mark.parametrize("file", ["", "ntk", "ntk/0", "ntk/1", "tiles"])
def test_damaged_metadata(path, file):
    """A `ValueError` that names the store, or the right kernel; never another error."""
    kernel_fn, args = small()
    batched = nt.batch(kernel_fn, 3, store=path)
    expected = jax.tree.map(np.asarray, batched(*args))
    metadata = path / file / "zarr.json"
    good = metadata.read_text()
    refused = 0
    for name, text in edits(good, random.Random(file)):
        for use in (lambda: batched(*args).ntk, lambda: tuple(nt.load_kernel(path).values())):
            metadata.write_text(text, encoding="latin-1")
            try:
                found = use()
            except ValueError as error:
                refused += 1
                assert str(path) in str(error), (name, text)
            else:
                jax.tree.map(
                    np.testing.assert_array_equal, tuple(map(np.asarray, found)), expected.ntk
                )
    assert refused > 20 or file == "ntk"  # whose file Zarr does not read
    metadata.write_text(good)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, batched(*args)), expected)


def test_a_store_is_not_that_of_the_tiles_in_its_folder(path, kept):
    """Neither a damaged head, nor another's, makes the tiles of one kernel those of another."""
    kept(X1, None, PARAMS)
    other = path.with_name("other")
    nt.batch(changed(precision="default"), 3, store=other)(X1, None, PARAMS)
    head = path / "zarr.json"
    good = head.read_text()
    for text in (
        json.dumps(json.loads(good) | {"node_type": "x"}),
        (other / "zarr.json").read_text(),
    ):
        head.write_text(text)
        for kernel_fn in (NTK, changed(precision="default")):
            with pytest.raises(ValueError, match=r"is damaged: |holds another kernel"):
                nt.batch(kernel_fn, 3, store=path)(X1, None, PARAMS)
        with pytest.raises(ValueError, match="is damaged: "):
            nt.load_kernel(path)


def test_a_path_is_that_of_the_folder_it_was_given_in(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    stores = ["k", Path("l"), zarr.storage.LocalStore("m"), "file://n"]
    kernel_fn, args = small()
    batched = [nt.batch(kernel_fn, 3, store=store) for store in stores]
    for fn in batched:
        fn(*args)
        monkeypatch.chdir(tmp_path / "b")
        fn(*args)
        fn.explain(*args)
    assert not list((tmp_path / "b").iterdir())
    names = {p.name for p in (tmp_path / "a").iterdir()}
    assert names == {n for name in "klmn" for n in (name, f"{name}.lock")}


def test_what_is_no_store():
    for use in (partial(nt.batch, NTK, store=3), partial(nt.load_kernel, 3)):
        with pytest.raises(TypeError, match="store must be a path or a Zarr store, got int"):
            use()
    with pytest.raises(ValueError, match="store='' is no path"):
        nt.batch(NTK, store="")


def test_a_place_without_locks(path, monkeypatch):
    def acquire(self, **options):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(ValueError, match=r"cannot be locked: .* another file system"):
        nt.batch(NTK, 3, store=path)(X1, None, PARAMS)


LIMITED = """
import resource, signal, sys
import numpy as np, tangax as nt
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
f = lambda p, x: x @ p
x, p = np.linspace(0, 1, 90).reshape(30, 3), np.ones((3, 2))
for most, path in zip((100, 200), sys.argv[1:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=0, check_vmap=False)
        nt.batch(ntk_fn, 8, store=path)(x, None, p)
    except OSError as error:
        assert path in str(error) and "the same call continues" in str(error), error
        print(type(error.__cause__).__name__)
"""


def test_a_system_that_writes_no_more(path):
    """The system's own error while a file is half written: of the head, of a tile."""
    run = [sys.executable, "-c", LIMITED, str(path), str(path.with_name("other"))]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    child = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert child.stdout == "OSError\nOSError\n", child.stderr


def test_a_zarr_array_is_no_store_of_kernels(path):
    zarr.create_array(path, shape=(3,), chunks=(3,), dtype="f8")
    for use in (
        lambda: nt.batch(NTK, 3, store=path)(X1, None, PARAMS),
        lambda: nt.load_kernel(path),
    ):
        with pytest.raises(ValueError, match="holds no kernel"):
            use()


def test_a_store_by_another_name_is_in_use(path, kept):
    link = path.with_name("link.zarr")
    kept(X1, None, PARAMS)
    link.symlink_to(path)
    for name in (link, f"file://{path}"):
        with locked(path), pytest.raises(RuntimeError, match="in use by another run"):
            nt.batch(NTK, 3, store=name)(X1, None, PARAMS)
        assert_equal(nt.batch(NTK, 3, store=name)(X1, None, PARAMS)[...], naive())


def test_a_store_in_use(path):
    for store in (path, zarr.storage.MemoryStore()):
        with locked(store), pytest.raises(RuntimeError, match="in use by another run"):
            nt.batch(NTK, 3, store=store)(X1, None, PARAMS)
        assert_equal(nt.batch(NTK, 3, store=store)(X1, None, PARAMS)[...], naive())


def test_places_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes").write_text("")
    for store, words in (
        (file, "is a file"),
        (file / "kernel.zarr", "cannot be written"),
        (folder, "other files"),
    ):
        with pytest.raises(ValueError, match=words):
            nt.batch(NTK, 3, store=store)(X1, None, PARAMS)
    zarr.create_group(tmp_path / "group.zarr")
    with pytest.raises(ValueError, match="holds no kernel"):
        nt.batch(NTK, 3, store=tmp_path / "group.zarr")(X1, None, PARAMS)
    with pytest.raises(ValueError, match="there is no kernel"):
        nt.load_kernel(tmp_path / "nothing.zarr")


def test_entries_that_are_not_finite_are_told_of_again(path, kept):
    x = X1.at[5, 0, 0, 0].set(jnp.nan)
    for _ in range(2):  # computed, then found in the store
        with pytest.warns(RuntimeWarning, match=r"x1\[0\] with x2\[5\]"):
            kept(x, None, PARAMS)
    assert np.isnan(nt.load_kernel(path)[5]).all()


# A child that is killed

CHILD = Path(__file__).parents[1] / "support" / "processes" / "killed.py"


def child(path, examples):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": "1"}
    run = [sys.executable, CHILD, path, str(examples)]
    return subprocess.Popen(run, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def stopped(path, examples, how, lines):
    """A child that is stopped at a random moment after it has told of so many tiles."""
    process = child(path, examples)
    for _ in range(lines):
        assert process.stdout.readline() == b"tile\n", process.stderr.read().decode()
    time.sleep(random.uniform(0, 0.01))
    process.send_signal(how)
    process.communicate(timeout=300)
    return process.returncode


def finished(path, examples):
    """A child that is left alone: how many tiles it computes."""
    out, err = child(path, examples).communicate(timeout=300)
    assert out.endswith(b"finished\n"), err.decode()
    return out.count(b"tile\n")


def crash(path, examples, hows):
    """A store after signals at random moments of its tiles against one without."""
    whole = path.with_name("whole.zarr")
    every = finished(whole, examples)
    random.seed(0)
    moments = [random.randint(1, every // len(hows) - 1) for _ in hows]
    codes = [stopped(path, examples, how, lines) for how, lines in zip(hows, moments, strict=True)]
    assert all(codes)  # none of them had finished
    assert 0 < finished(path, examples) < every
    np.testing.assert_array_equal(nt.load_kernel(path)[...], nt.load_kernel(whole)[...])


def test_a_run_that_was_interrupted_and_killed_continues(path):
    crash(path, 30, [signal.SIGINT, signal.SIGKILL])


@pytest.mark.crash
def test_twenty_killed_runs_continue(path):
    crash(path, 60, [signal.SIGKILL] * 20)
