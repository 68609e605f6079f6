"""The README's table of what works where, cell by cell."""

import pathlib
import re

import keras
import numpy as np
import pytest
from _backend import compiled, tensors
from keras import ops
from kit import check_close

from kedit import X, at, block, each, sample

README = pathlib.Path(__file__).parent.parent / "README.md"
DATA = np.arange(12, dtype="float32").reshape(3, 4) - 5
ROWS = np.array([2, 0, 2], "int32")
COLUMNS = np.array([3, 1, 0], "int32")
START = np.array(2, "int32")
MASK = DATA % 5 == 0
ARGUMENTS = (DATA, ROWS, COLUMNS, START, MASK)


def edited(change):
    """A copy of the data, after `change` has assigned to it."""
    y = DATA.copy()
    change(y)
    return y


def assign(index, values):
    return edited(lambda y: y.__setitem__(index, values))


# For each row of the table: edits of `x` at `rows, columns, start, mask`, which may be tensors,
# and what NumPy makes of the data.
EXAMPLES = {
    "ints, negative ints, slices of any step, `...`, `None`": [
        (lambda x, *_: at(x)[:, -1].set(9.0), assign(np.s_[:, -1], 9)),
        (lambda x, *_: at(x)[..., ::-2].get(), DATA[..., ::-2]),
        (lambda x, *_: at(x)[:, None, 1:3].multiply(2.0), DATA * [1, 2, 2, 1]),
    ],
    "lists and arrays of integers, mixed with all others": [
        (lambda x, *_: at(x)[..., [0, 3]].set(9.0), assign(np.s_[..., [0, 3]], 9)),
        (lambda x, *_: at(x)[1:, [-1, 0]].get(), DATA[1:, [-1, 0]]),
    ],
    "boolean arrays": [
        (
            lambda x, *_: at(x)[:, [True, False, False, True]].set(9.0),
            assign(np.s_[:, [True, False, False, True]], 9),
        ),
    ],
    "integer tensors, mixed with all others": [
        (lambda x, r, c, *_: at(x)[:, c].set(9.0), assign(np.s_[:, COLUMNS], 9)),
        (lambda x, r, c, *_: at(x)[r, c].get(), DATA[ROWS, COLUMNS]),
        (lambda x, r, c, i, m: at(x)[i, 1:].set(9.0), assign(np.s_[2, 1:], 9)),
        (lambda x, r, c, i, m: at(x)[r, None, 2].get(), DATA[ROWS, None, 2]),
    ],
    "boolean tensors, with one value or one for each True": [
        (lambda x, r, c, i, m: at(x)[m].set(9.0), assign(MASK, 9)),
        (lambda x, r, c, i, m: at(x)[m].set([7.0, 8.0, 9.0]), assign(MASK, [7, 8, 9])),
    ],
    "`each(i)`: positions of their own in each sample": [
        (lambda x, r, c, *_: sample(x)[each(c)].set(9.0), assign((np.arange(3), COLUMNS), 9)),
    ],
    "`block(i, 3)`: neighbours from a start that is a tensor": [
        (lambda x, r, c, i, m: at(x)[:, block(i, 3)].set(9.0), assign(np.s_[:, 2:], 9)),
    ],
    "condition over `X`, function": [
        (lambda x, *_: at(x).where(X > 2).multiply(2.0), np.where(DATA > 2, 2 * DATA, DATA)),
        (lambda x, *_: at(x).where(lambda x: x > 2).apply(ops.abs), DATA),
    ],
    "`get` of a boolean tensor": [(lambda x, r, c, i, m: at(x)[m].get(), DATA[MASK])],
    '`mode="raise"` for tensors': [
        (lambda x, r, *_: at(x)[r].set(9.0, mode="raise"), assign(ROWS, 9)),
    ],
}
SIZED = [(lambda x, r, c, i, m: at(x)[m].get(size=3), DATA[MASK])]


def eager(edit):
    return edit(*tensors(ARGUMENTS))


def compile_and_run(edit):
    return compiled(edit)(*tensors(ARGUMENTS))


def build_and_predict(edit):
    # Of one size all: the start is the same for every sample, hence no input with a batch axis.
    inputs = [keras.Input(batch_shape=a.shape, dtype=str(a.dtype)) for a in ARGUMENTS]
    return keras.Model(inputs, edit(*inputs))(tensors(ARGUMENTS))


MODES = {"eager": eager, "compiled": compile_and_run, "symbolic": build_and_predict}


def table():
    """Cells of the table by the first one of their row."""
    text = README.read_text().split("## Which index works where")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0][1:] == list(MODES)
    return {row[0]: dict(zip(MODES, row[1:], strict=True)) for row in rows[2:]}


@pytest.mark.once
def test_every_row_has_examples():
    assert list(table()) == list(EXAMPLES)


@pytest.mark.tensors
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", EXAMPLES)
def test_cell(row, mode):
    cell = table()[row][mode]
    examples = SIZED if cell == "with `size=`" else EXAMPLES[row]
    assert re.match(r"yes|no$|with `size=`$", cell)
    for edit, expected in examples:
        if cell == "no" or examples is SIZED:
            with pytest.raises(Exception, match=r"Received|ndarray|Unsupported"):
                MODES[mode](EXAMPLES[row][0][0])
        if cell != "no":
            check_close(MODES[mode](edit), expected)
