"""What tells one function from another: pairs that differ in one value, at every kind of place."""

import json
import os
import subprocess
import sys

import pytest
from support import told

PAIRS = told.pairs()


@pytest.mark.parametrize("name", PAIRS)
def test_functions_that_differ_in_one_value(name):
    first, again, other = (told.digest(PAIRS[name](c)) for c in (2.0, 2.0, 3.0))
    assert first == again != other


@pytest.mark.parametrize("name", told.REFUSED)
def test_what_cannot_be_told_is_refused(name):
    with pytest.raises(ValueError, match=r"store= must tell f .*\. .*, or leave store= out"):
        told.digest(told.REFUSED[name](2.0))


def test_the_same_in_another_process():
    """Whatever is told: everything that is common is."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "3"}
    run = [sys.executable, told.__file__]
    child = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    here, there = told.digests(), json.loads(child.stdout)
    assert {name for name in here if here[name] != there[name]} == set()


def test_rules_that_are_not_needed():
    """Of an NNGP the values alone count, so that no rule of derivation is asked for."""
    for make in (told.rule, told.backward_rule, lambda c: told.in_while(told.backward_rule(c))):
        assert told.digest(make(2.0), ["nngp"]) == told.digest(make(3.0), ["nngp"])


def test_a_refusal_names_the_equation_the_line_and_the_mend():
    with pytest.raises(ValueError) as error:
        told.digest(told.REFUSED["lambda"](2.0))
    for part in (
        "'pure_callback' at told.py:",
        "the Python function",
        "<lambda> (its callback)",
        "Write it in JAX, or leave store= out",
    ):
        assert part in str(error.value)
