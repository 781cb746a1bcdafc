"""One table of functions, crossed by the tests with every implementation and every option.

Importing the sections fills it; `table.py` says what a row is. `get(name)` builds a case when it is
asked for. `NAMES` lists the rows, `CORE` about one of each kind, for what is too slow on them all;
`KINDS` has those whose kinds of sites are told, `FACTORS` those whose factors are.
"""

from support.cases import (
    algebra,
    arithmetic,
    convolutions,
    degenerate,
    dense,
    embeddings,
    indexing,
    layers,
    layout,
    loops,
    outputs,
    routing,
    transformations,
)
from support.cases.functions import conv
from support.cases.table import ROWS, Case, get, integers

SECTIONS = (
    arithmetic,
    dense,
    layout,
    indexing,
    convolutions,
    embeddings,
    layers,
    loops,
    transformations,
    algebra,
    routing,
    degenerate,
    outputs,
)
# Every row but those that JAX computes in float32, which equal their definitions to 1e-5 or so.
NAMES = [name for name, row in ROWS.items() if row.exact]
CORE = [name for name, row in ROWS.items() if row.core]
KINDS = {name: row.kinds for name, row in ROWS.items() if row.kinds}
FACTORS = {name: row.factors for name, row in ROWS.items() if row.factors}

__all__ = ["CORE", "FACTORS", "KINDS", "NAMES", "SECTIONS", "Case", "conv", "get", "integers"]
