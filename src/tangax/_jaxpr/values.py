"""Values told apart by what they are, not by their address."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import site
import sys
import sysconfig
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core import is_primitive

# Functions of packages whose closures hold but the words of an error: they raise it.
_RAISE = frozenset(f"equinox._errors._error.<locals>.{f}" for f in ("raises", "tpu_msg"))
_PLACED = jax.sharding.Sharding, jax.sharding.Mesh, jax.sharding.PartitionSpec, jax.Device
_PLACED += (jax.sharding.AbstractMesh,)


class Unseen(Exception):
    """A value that cannot be told from another of its kind, with what it is."""

    @staticmethod
    def of(value: Any) -> Unseen:
        """With the name of a function, else of the type."""
        called = getattr(value, "__qualname__", None)
        if isinstance(called, str) and callable(value):
            return Unseen(
                f"the Python {'class' if isinstance(value, type) else 'function'} {called}"
            )
        return Unseen(f"an object of {type(value).__module__}.{type(value).__qualname__}")


def told(
    value: Any, special: Callable[[Any], bytes | None] = lambda value: None, around: Any = ()
) -> bytes:
    """A hash of a value: equal for equal ones, also in another process.

    `special`: the hash of what the caller knows better. `around`: what the value stands in. Raises
    `Unseen` for functions and classes that are not those of an installed package, and for what
    holds one.
    """
    found = special(value)
    if found is not None:
        return found
    if any(value is v for v in around):
        raise Unseen.of(value)
    inner = functools.partial(told, special=special, around=(*around, value))
    kind = type(value).__qualname__
    if value is None or isinstance(value, (*_PLACED, np.dtype)):
        return combined(kind, str(value))
    if type(value) in (bool, int, float, complex, str, bytes):
        return combined(kind, hex(value) if type(value) is int else repr(value))
    if isinstance(value, (np.generic, jax.Array)) or type(value) in (np.ndarray, np.memmap):
        return _array(value, inner)
    if type(value) in (tuple, list):
        return combined(kind, *map(inner, value))
    if type(value) is dict:
        return combined(kind, *sorted(inner(k) + inner(v) for k, v in value.items()))
    if type(value) in (set, frozenset):
        return combined(kind, *sorted(map(inner, value)))
    if isinstance(value, jax.tree_util.PyTreeDef):
        return combined(kind, value.num_leaves, inner(value.node_data()), inner(value.children()))
    known = reference(value)
    if known is not None:
        return combined("reference", known)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return combined("object", inner(type(value)), inner(fields))
    return combined("object", *map(inner, _reduced(value)))


def _array(value: Any, inner: Callable[[Any], bytes]) -> bytes:
    """The hash of an array: dtype, shape, all its bytes."""
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return combined("key", str(value.dtype), inner(jax.random.key_data(value)))
        try:
            value = np.asarray(value)
        except jax.errors.ConcretizationTypeError:
            raise Unseen.of(value) from None
    if value.dtype == object:
        return combined("objects", str(value.shape), *map(inner, value.flat))
    data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return combined(str(value.dtype), str(value.shape), data.data)


def _reduced(value: Any) -> list[Any]:
    """What an object is made of, as pickle has it."""
    if type(value) is object:  # told by its address alone
        raise Unseen.of(value)
    try:
        parts = value.__reduce_ex__(4)
        if isinstance(parts, str):
            raise TypeError(parts)
        return [type(value), *(p if i < 3 or p is None else list(p) for i, p in enumerate(parts))]
    except Exception:
        raise Unseen.of(value) from None


def reference(value: Any) -> str | None:
    """Where an installed package has a function, a class or a primitive, so that its name tells it.

    Nothing if it has not, or is not installed: a user's code changes under one name.
    """
    if is_primitive(value):
        return primitives().get(value) or primitives(len(sys.modules)).get(value)
    module, called = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(value, np.ufunc):
        module, called = "numpy", value.__name__
    elif module == "builtins" and isinstance(called, str) and getattr(types, called, None) is value:
        module = "types"  # such as that of None
    if not isinstance(module, str) or not isinstance(called, str) or not _is_installed(module):
        return None
    if f"{module}.{called}" in _RAISE:
        return f"{module}.{called}"
    value_there = functools.reduce(
        lambda v, a: getattr(v, a, None), called.split("."), sys.modules[module]
    )
    return f"{module}.{called}" if value_there is value else None


@functools.cache
def primitives(modules: int = 0) -> dict[Any, str]:
    """The primitives of installed packages, anew where more modules are loaded.

    JAX's last: other packages import them.
    """
    names = sorted(
        filter(_is_installed, sys.modules), key=lambda module: module.split(".")[0] == "jax"
    )
    return {
        value: f"{module}.{value.name}"
        for module in names
        for value in list(vars(sys.modules[module]).values())
        if is_primitive(value)
    }


@functools.cache
def _is_installed(module: str) -> bool:
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None:
        return module in sys.builtin_module_names
    return os.path.realpath(file).startswith(_installed())


@functools.cache
def _installed() -> tuple[str, ...]:
    kept = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [sysconfig.get_path(kind) for kind in kept]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)


def combined(*parts: Any) -> bytes:
    """One hash of several parts, each with its length: no two lists of parts run together."""
    sha = hashlib.sha256()
    for part in parts:
        if not isinstance(part, (bytes, memoryview)):
            part = f"{type(part).__name__} {part}".encode()
        sha.update(f"{len(part)}:".encode())
        sha.update(part)
    return sha.digest()
