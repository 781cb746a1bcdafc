"""What every test runs under: float64, quiet and single-threaded XLA, and the option `--full`.

The environment variables are defaults: one that is already set stays, so that for example
`JAX_PLATFORMS=cuda make test` runs on a GPU.
"""

import gc
import os
import tempfile

# Read by JAX, XLA, BLAS and matplotlib when they start: set before any of them is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
# Half of a test's time is compiling. `make test` runs a slice as users compile it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import jaxlib
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 4)  # for meshes; all else runs on the first
# Tests compile the same program again and again. What one has compiled serves those that follow in
# its process, and no other: a test must not pass or fail by what an earlier run has compiled.
COMPILED = tempfile.TemporaryDirectory(prefix="tangax-tests-")
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Compiling takes longer than any deadline; the same examples every time make failures repeatable.
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=20)
settings.register_profile("full", deadline=None, derandomize=True, max_examples=200)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="run the full product of cases (`make test-all`)"
    )
    parser.addoption("--crash", action="store_true", help="run what `make crash` runs")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Workers side by side have one core each.

    Set before they start: plugins of theirs import NumPy before this file. XLA sizes its pools by
    NPROC; the often quoted flag `intra_op_parallelism_threads=1` changes nothing (measured on JAX
    0.10.2 and 0.12).
    """
    for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("full" if config.getoption("full") else "quick")


def pytest_collection_finish() -> None:
    """What collecting has made stays: the collector need not look at it again and again."""
    gc.freeze()


def pytest_report_header() -> str:
    return f"jax: {jax.__version__}, jaxlib: {jaxlib.__version__}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for option in ("full", "crash"):
            if item.get_closest_marker(option) is not None and not config.getoption(option):
                item.add_marker(pytest.mark.skip(reason=f"not without --{option}"))
