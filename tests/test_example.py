"""The demo runs from its arguments to its picture, and refuses wrong arguments in words."""

import runpy
from pathlib import Path

import jax
import pytest

DEMO = Path(__file__).parents[1] / "examples" / "digits.py"


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
