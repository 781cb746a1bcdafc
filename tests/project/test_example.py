"""The examples run from their arguments to their pictures, and refuse wrong arguments in words."""

import runpy
from pathlib import Path

import jax
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO, WIDTHS = EXAMPLES / "digits.py", EXAMPLES / "infinite_width.py"


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(DEMO))["main"]


def test_demo_prints_the_table_and_writes_the_picture(main, tmp_path, capsys):
    picture = tmp_path / "new" / "digits.png"
    with jax.enable_x64(False):  # as the demo is run
        main(["--train", "20", "--test", "12", "--steps", "2", "--out", str(picture)])
    table = capsys.readouterr().out
    rows = ["network after", "NNGP before", "NNGP after", "NTK before", "NTK after"]
    assert [row for row in rows if row in table] == rows
    assert "nan" not in table
    assert max(map(len, table.splitlines()[:8])) <= 80
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--train 1500", "1797 images"),
        ("--test 9", "at least 10"),
        ("--steps -1", "not be negative"),
        ("--seed -1", "from 0 to"),
        ("--out digits.gif", "must end in"),
    ],
)
def test_demo_refuses_what_cannot_work(main, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments.split())
    assert message in capsys.readouterr().err


def test_widths_are_compared_with_the_limit(tmp_path, capsys):
    picture = tmp_path / "widths.png"
    arguments = ["--widths", "4", "64", "--samples", "2", "--images", "3", "--out", str(picture)]
    with jax.enable_x64(False):
        runpy.run_path(str(WIDTHS))["main"](arguments)
    table = capsys.readouterr().out
    for name in ("MLP", "CNN, global pooling", "residual"):
        row = next(line for line in table.splitlines() if line.startswith(name))
        narrow, wide = map(float, row[len(name) :].split()[:2])
        assert wide < narrow
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_width_is_too_few(capsys):
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(WIDTHS))["main"](["--widths", "4"])
    assert "two at least" in capsys.readouterr().err
