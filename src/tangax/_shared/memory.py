"""Memory budgets: what a user says, and what a device has free."""

from __future__ import annotations

import math
import numbers
import os
import re
from pathlib import Path
from typing import Any

import jax

from .tuning import CALL_SHARE

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def budget(memory: float | str | None) -> int:
    """A budget in bytes: from bytes, a string like "2GiB", or a share of what is free."""
    if memory is None:
        return int(CALL_SHARE * free())
    if isinstance(memory, numbers.Real) and not isinstance(memory, bool) and float(memory) >= 1:
        return int(memory)
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]i?|)b?\s*", memory.lower())
        if match and match[1].count(".") < 2 and match[1] != "." and float(match[1]) > 0:
            return int(float(match[1]) * _UNITS[match[2]])
    msg = f'memory must be a positive number of bytes or a string like "2GiB", got {memory!r}.'
    raise ValueError(msg)


# What is refused holds this many times its budget, and more than a process holds anyway: a budget
# of a few bytes asks for the smallest blocks.
REFUSED, ANYWAY = 12, 2**28


def is_refused(needed: int, memory: int) -> bool:
    """Whether what is needed is too far above a budget to be tried."""
    return needed > max(REFUSED * memory, ANYWAY)


def nbytes(tree: Any) -> int:
    """Bytes of the arrays, or shapes, of a tree."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def in_bytes(number: int) -> str:
    """Bytes to three digits: 1.23 GiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number} B"


def free() -> int:
    """Bytes that the default device has free; on a CPU what the system has."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return host_free()


def host_free() -> int:
    """Bytes that this process may still take of the system's memory."""
    try:  # Linux: with what its caches would give back
        sizes = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return min(int(sizes["MemAvailable"].split()[0]) * 1024, *map(_group_free, groups()))
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, AttributeError):  # not a POSIX system
        return 4 * 2**30


_GROUPS = Path("/sys/fs/cgroup")


def groups() -> list[Path]:
    """The control groups that this process is in, as a container or a job has."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")
    path = _GROUPS / own
    return [p for p in (path, *path.parents) if p.is_relative_to(_GROUPS)]


def _group_free(group: Path) -> int:
    """Bytes that a control group leaves; many where it has no limit."""
    try:
        most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (group / "memory.stat").read_text().splitlines()
        inactive = int(dict(map(str.split, lines))["inactive_file"])
    except (OSError, KeyError, ValueError):
        return 2**63
    return max(0, most - used + inactive)
