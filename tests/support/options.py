"""Products of options, of which the default run takes a half that meets every pair."""

import itertools

import pytest


def half(**options):
    """Parametrises by the product; by default by the rows whose places add up to an even number.

    Those have every value, and of three options or more every pair of values.
    """
    rows = []
    for row in itertools.product(*(list(enumerate(values)) for values in options.values())):
        places, values = zip(*row, strict=True)
        rows.append(pytest.param(*values, marks=pytest.mark.full if sum(places) % 2 else ()))
    return pytest.mark.parametrize(", ".join(options), rows)
