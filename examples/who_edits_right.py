"""Four ways to write `x[index] = value`
=====================================

Tensors refuse assignment, and there is more than one answer on how to do without. Which of them is
right, and for which index? `kedit.testing.check_edit_function` asks each of them what it asks of
kedit: some 350 cases, in which NumPy says what is right, and a closed form which gradient is.

The ways with a mask take numbers, and values that broadcast to the whole tensor. An error for other
values does no harm. What does is in the second color: values at the wrong places, and gradients of
elements that were overwritten. Give it a function of your own, and see.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/who_edits_right.py

.. image:: /../examples/who_edits_right.png
   :alt: For each way and each kind of index, how many cases are right, wrong, or raise
"""

# sphinx_gallery_thumbnail_path = "../examples/who_edits_right.png"

import pathlib
import sys

import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from kedit import at
from kedit.testing import check_edit_function

PICTURE = pathlib.Path(__file__).with_suffix(".png")
COLORS = {"passes": "#2a9d8f", "fails": "#e76f51", "raises": "0.8"}
WORDS = {"passes": "right", "fails": "wrong, without an error", "raises": "an error"}


def mask_of(x, index):
    """1 where NumPy would assign, 0 elsewhere."""
    mask = np.zeros(tuple(x.shape), "bool")
    mask[index] = True
    return mask


def by_kedit(x, index, value):
    """The library."""
    return at(x)[index].set(value)


def by_arithmetic(x, index, value):
    """Nothing times the old elements, one times the new ones."""
    mask = ops.cast(mask_of(x, index), x.dtype)
    return x * (1 - mask) + value * mask


def by_where(x, index, value):
    """A choice between the old elements and the new ones."""
    return ops.where(mask_of(x, index), value, x)


def by_scatter_update(x, index, value):
    """Keras's own function, at the positions that NumPy finds for the index."""
    size = int(np.prod(x.shape))
    numbers = np.arange(size).reshape(tuple(x.shape))[index]
    positions = np.stack(np.unravel_index(numbers.ravel(), tuple(x.shape)), axis=-1)
    updates = ops.broadcast_to(ops.cast(value, x.dtype), numbers.shape)
    return ops.scatter_update(x, positions, ops.reshape(updates, (-1,)))


WAYS = {
    "at(x)[i].set(v)": by_kedit,
    "x * (1 - m) + v * m": by_arithmetic,
    "ops.where(m, v, x)": by_where,
    "ops.scatter_update": by_scatter_update,
}


def main(picture=PICTURE, only=None):
    """Check every way, and draw what each kind of case has found."""
    reports = {}
    for name, function in WAYS.items():
        reports[name] = check_edit_function(
            function, only=only, compile=False, raise_on_failure=False
        )
        found = [outcome.status for outcome in reports[name].outcomes]
        print(f"{name}: {', '.join(f'{found.count(s)} {word}' for s, word in WORDS.items())}")
    draw(reports, picture)
    return reports


def draw(reports, picture):
    """A bar for each kind of case, in a column for each way."""
    kinds = next(iter(reports.values())).kinds
    figure, axes = plt.subplots(
        1, len(reports), figsize=(11, 0.24 * len(kinds) + 1.3), layout="constrained", sharey=True
    )
    for axis, (name, report) in zip(axes, reports.items(), strict=True):
        start = np.zeros(len(kinds))
        for status, color in COLORS.items():
            counts = np.array([report.count(kind).get(status, 0) for kind in kinds])
            totals = np.array([max(1, sum(report.count(kind).values())) for kind in kinds])
            share = counts / totals
            axis.barh(kinds, share, left=start, color=color, height=0.85, label=WORDS[status])
            start += share
        axis.set_title(name, fontsize=10)
        axis.set_xticks([])
        axis.tick_params(length=0)
        for side in axis.spines.values():
            side.set_visible(False)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
