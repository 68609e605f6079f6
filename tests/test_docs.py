"""The tables of the documentation: what they say to write runs, and means what was written."""

import ast
import pathlib
import re

import keras
import numpy as np
import pytest
from keras import ops
from kit import check_close

from kedit import X, at, block, each, position, sample

DOCS = pathlib.Path(__file__).parent.parent / "docs"
DATA = np.arange(16, dtype="float32").reshape(4, 4)


def rows(page, title):
    """Cells of the table under a heading, as the pieces of code in them."""
    text = (DOCS / page).read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [
        [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split(" | ")] for line in lines
    ]


def names(array, x):
    """What the lines may name, with arrays made by `array`."""
    four = np.array([10.0, 20.0, 30.0, 40.0], "float32")
    return {
        "x": x,
        "v": array(four),
        "new": array(np.ones(4, "float32")),
        "i": array(np.array([2, 0, 1, 3])),
        "rows": array(np.array([0, 2, 1, 2])),
        "columns": array(np.array([3, 0, 1, 2])),
        "indices": array(np.array([[0, 3], [2, 0], [1, 1], [3, 3]])),
        "mask": array(DATA % 5 == 0),
        "start": array(np.array(1)),
        "n": 4,
        "np": np,
    }


def run(code, given):
    """The value of an expression, or of `x` after what has none."""
    try:
        value = eval(code, given)
    except SyntaxError:
        value = exec(code, given)
    return given["x"] if value is None else value


def by_kedit(code):
    given = names(ops.convert_to_tensor, ops.convert_to_tensor(DATA))
    given["variable"] = keras.Variable(DATA)
    library = {"at": at, "sample": sample, "each": each, "block": block, "X": X, "ops": ops}
    library["position"] = position
    return run(code, {**given, **library, "f": ops.square})


def runs(code):
    return code.startswith(("at(", "sample(", "x = ", "variable")) and "…" not in code


@pytest.mark.tensors
def test_numpy_lines_mean_what_numpy_does():
    compared = 0
    for (old, *_), (new, *_) in rows("coming_from.md", "NumPy and PyTorch assignment"):
        old, new = old.replace("y = x.copy(); y", "x"), new.replace("y = ", "x = ")
        old, new = old.replace("n:", "n - 2:"), new.replace(">= n", ">= ops.array(n - 2)")
        found = by_kedit(new)
        if "_(" in old or "index_" in old or "i[:, None]" in old:  # of PyTorch
            continue
        with np.errstate(divide="ignore"):
            expected = run(old, names(np.asarray, DATA.copy()))
        if old.startswith("np.where"):  # which takes the place of what is not chosen, too
            found = ops.where(ops.convert_to_tensor(DATA > 0), found, 0.0)
        check_close(found, expected)
        compared += 1
    assert compared >= 8


@pytest.mark.tensors
@pytest.mark.parametrize("title", ["JAX", "TensorFlow", "`keras.ops`"])
def test_lines_run(title):
    lines = [cells[1][0] for cells in rows("coming_from.md", title) if cells[1]]
    lines = [code for code in lines if runs(code)]
    assert len(lines) >= 5
    for code in lines:
        by_kedit(code)


def test_what_is_said_to_be_tested_is_tested():
    """Each row of the tables beside other libraries names a test, and it is there."""
    text = (DOCS / "guides" / "interventions_beside_others.md").read_text()
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    lines = [line for line in tables if not line.startswith(("| |", "|---"))]
    assert len(lines) > 30
    for line in lines:
        *_, last = line.strip("| ").split(" | ")
        file, name = last.strip("`").split("::")
        tree = ast.parse((pathlib.Path(__file__).parent / file).read_text())
        assert name in {part.name for part in tree.body if isinstance(part, ast.FunctionDef)}, line
