"""Measure the memory that an edit of a large tensor takes, beside the tensor itself.

    KERAS_BACKEND=jax python benchmarks/memory.py element [--gigabytes 1] [--dtype D] [--compile]

Prints the peak above what the process held before, as a multiple of the tensor; one edit a process,
since a peak does not come down again.
"""

import argparse
import resource
from typing import Any

import keras
import numpy as np
from keras import ops
from run import modes, ready

from kedit import X, at

EDITS = {
    "element": lambda x: at(x)[3, 5].set(1),
    "list": lambda x: at(x)[[1, -1, 2], [0, 5, 3]].set(np.arange(3)),
    "column": lambda x: at(x)[:, 7].set(1),
    "slice": lambda x: at(x)[:, 10:2000].set(1),
    "strided": lambda x: at(x)[:, ::2].multiply(2),
    "condition": lambda x: at(x).where(X > 1).multiply(2),
    "rows": lambda x: at(x)[ops.array([1, 2])].set(1),
    "sums": lambda x: at(x)[ops.array([1, 2])].add(1),
}


def peak() -> float:
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("edit", choices=EDITS)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", action="store_true", help="the last of the modes of run.py")
    arguments = parser.parse_args()
    item = np.dtype(arguments.dtype).itemsize
    rows = int(arguments.gigabytes * 2**30 / item / 4096)
    wrap: Any = list(modes().values())[-1 if arguments.compile else 0]
    edit = wrap(EDITS[arguments.edit])
    x = ready(ops.zeros((rows, 4096), dtype=arguments.dtype))
    ops.convert_to_numpy(x[:1])
    before = peak()
    ready(edit(x))
    size = rows * 4096 * item / 2**20
    taken = peak() - before
    print(
        f"{keras.backend.backend()} {arguments.edit}: {taken:.0f} MB for a tensor of {size:.0f} MB "
        f"of {arguments.dtype}, {taken / size:.2f} times"
    )


if __name__ == "__main__":
    main()
