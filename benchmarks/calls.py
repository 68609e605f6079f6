"""Calls of kedit's named functions, and microseconds, of the shortest ways through it, warm.

    KERAS_BACKEND=torch python benchmarks/calls.py

A call is one of a function or method that is written in `kedit/`; comprehensions, lambdas and
generators are not counted. Microseconds are of the best of many rounds, beside `keras.ops.where`
for the same result.
"""

import sys
import timeit
from pathlib import Path

import keras
import numpy as np
from keras import ops

import kedit
from kedit import at

KEDIT = str(Path(kedit.__file__).parent)
ROUNDS = 30


def calls(function):
    """The functions of kedit that a call of `function` calls, in order, as (file, name)."""
    found = []

    def trace(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(KEDIT) and code.co_name[0] != "<":
            found.append((code.co_filename[len(KEDIT) + 1 :], code.co_name))

    sys.setprofile(trace)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def microseconds(function, number=200):
    return min(timeit.repeat(function, number=number, repeat=ROUNDS)) / number * 1e6


def ways():
    """What is called, by name, and for microseconds the native spelling of the same."""
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(8, 4)).astype("float32"))
    edit = at[0, 2].set(100.0)
    i, v = ops.convert_to_tensor(np.array([1, 3, 5])), ops.ones((3, 4))
    layer = kedit.layers.Editing(kedit.sample[2].set(100.0))
    layer(x)
    mask = np.zeros((8, 4), bool)
    mask[0, 2] = True
    mask = ops.convert_to_tensor(mask)
    node = keras.Input((8, 4))
    number = ops.convert_to_tensor(np.float32(100.0))
    return {
        "at(x)[0, 2].set(100.0)": (
            lambda: at(x)[0, 2].set(100.0),
            lambda: ops.where(mask, number, x),
        ),
        "the same, an Edit made before": (lambda: edit(x), lambda: ops.where(mask, number, x)),
        "NumPy array": (lambda: at(np.ones((8, 4)))[0, 2].set(100.0), None),
        "index tensor, set": (lambda: at(x)[i].set(v), None),
        "index tensor, add": (lambda: at(x)[i].add(v), None),
        "Editing layer": (lambda: layer(x), None),
        "KerasTensor": (lambda: at(node)[0, 2].set(100.0), None),
    }


def main():
    print(f"{'':32}{'calls':>8}{'files':>8}{'us':>8}{'where':>8}")
    for name, (function, native) in ways().items():
        for _ in range(3):
            function()
        found = calls(function)
        if "--list" in sys.argv:
            for file, called in found:
                print(f"    {file}: {called}")
        files = len({file for file, _ in found})
        times = [f"{microseconds(way):8.1f}" if way else "" for way in (function, native)]
        print(f"{name:32}{len(found):8}{files:8}{''.join(times)}")


if __name__ == "__main__":
    main()
