"""Run `kedit.testing.check_edit_function` on libraries that edit tensors, and write what passes.

KERAS_BACKEND=jax python docs/conformance.py

Each run keeps what it finds in `conformance/`, a file for each backend, and writes the tables of
all of them into `reference/conformance.md`. It needs the group `conformance` of `pyproject.toml`.
"""

import importlib.metadata
import json
import pathlib
import sys

import keras
import numpy as np
from array_api_extra import at as array_api_at
from keras import ops

import kedit
from kedit.testing import check_edit_function

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "conformance"
PAGE = HERE / "reference" / "conformance.md"
START, END = "<!-- conformance: start -->", "<!-- conformance: end -->"
BACKEND = keras.backend.backend()
TITLES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch", "numpy": "NumPy"}
PACKAGES = {"tensorflow": ("tensorflow", "tensorflow-cpu"), "jax": ("jax",), "torch": ("torch",)}


def by_kedit(op):
    """An edit that is made beforehand, since `torch.compile` cannot read arrays."""
    return lambda x, place, value: getattr(place, op)(value)(x)


def is_list_of_positions(index):
    """Whether an index is a tensor of positions on the first axis."""
    is_tensor = ops.is_tensor(index) and not isinstance(index, np.ndarray)
    return is_tensor and len(index.shape) == 1 and "int" in str(index.dtype)


def by_scatter_update(op):
    """`keras.ops.scatter_update`, at the positions that NumPy finds for the index."""

    def scatter_update(x, index, value):
        if is_list_of_positions(index):
            positions, updates = index[:, None], value
        else:
            numbers = np.arange(int(np.prod(x.shape))).reshape(tuple(x.shape))[index]
            positions = np.stack(np.unravel_index(numbers.ravel(), tuple(x.shape)), axis=-1)
            updates = ops.reshape(ops.broadcast_to(ops.cast(value, x.dtype), numbers.shape), (-1,))
        reduction = None if op == "set" else op
        return ops.scatter_update(x, positions, updates, reduction)

    return scatter_update


def by_slice_update(op):
    """`keras.ops.slice_update`, for ints and slices without a step."""

    def slice_update(x, index, value):
        items = list(index) if isinstance(index, tuple) else [index]
        if ... in [item for item in items if not isinstance(item, np.ndarray)]:
            place = [item is ... for item in items].index(True)
            items[place : place + 1] = [slice(None)] * (len(x.shape) - len(items) + 1)
        items += [slice(None)] * (len(x.shape) - len(items))
        starts, sizes, kept = [], [], []
        for item, size in zip(items, x.shape, strict=True):
            if isinstance(item, slice):
                start, stop, step = item.indices(size)
                if step != 1:
                    raise NotImplementedError("a step")
                starts.append(start)
                sizes.append(max(stop - start, 0))
                kept.append(sizes[-1])
            elif isinstance(item, int) and not isinstance(item, bool):
                if not -size <= item < size:
                    raise IndexError("out of bounds")
                starts.append(item % size)
                sizes.append(1)
            else:
                raise NotImplementedError(f"{item!r} in an index")
        updates = ops.reshape(ops.broadcast_to(value, kept), sizes)
        return ops.slice_update(x, starts, ops.cast(updates, x.dtype))

    return slice_update if op == "set" else None


def by_array_api_extra(op):
    """`array_api_extra.at`, told to copy; TensorFlow is none of its backends."""
    if BACKEND == "tensorflow":
        return None
    return lambda x, index, value: getattr(array_api_at(x, index), op)(value, copy=True)


def native(op):
    """What the backend has itself: `.at` of JAX, assignment to a copy in PyTorch and NumPy."""
    if BACKEND == "jax":
        return lambda x, index, value: getattr(x.at[index], op)(value)
    if BACKEND == "tensorflow":
        return None

    def assigned(x, index, value):
        y = x.clone() if BACKEND == "torch" else x.copy()
        if op == "set":
            y[index] = value
        else:
            y[index] += value
        return y

    return assigned


NATIVE = {"jax": "`x.at[i]`", "torch": "`x.clone()[i]`", "numpy": "`x.copy()[i]`"}
LIBRARIES = {
    "kedit": by_kedit,
    "`scatter_update`": by_scatter_update,
    "`slice_update`": by_slice_update,
    "`array_api_extra.at`": by_array_api_extra,
    NATIVE.get(BACKEND, ""): native,
}


def checked(name, make, op):
    """The counts of each kind, eager and compiled; None if the library has no such function."""
    function = make(op)
    if function is None:
        return None
    report = check_edit_function(
        function,
        op=op,
        as_index=(lambda index: kedit.at[index]) if make is by_kedit else None,
        compile=BACKEND != "torch",
        raise_on_failure=False,
    )
    print(f"{name}, {op}\n{report}\n", flush=True)
    return {kind: [report.count(kind), report.count(kind, compiled=True)] for kind in report.kinds}


def versions():
    """What was run, with its version."""
    found = []
    for package in (*PACKAGES.get(BACKEND, ()), "keras", "numpy", "array-api-extra"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return [f"kedit {kedit.__version__}", *found]


def cell(counts):
    """A tick, or how many of the cases pass, and whether the others give a wrong result."""
    if counts is None:
        return ""
    if {status for found in counts for status in found} == {"raises"}:
        return "-"
    parts = []
    for found in counts:
        total, passes = sum(found.values()), found.get("passes", 0)
        how = " wrong" if found.get("fails") else " raises" if passes < total else ""
        parts.append("" if not total else "✓" if passes == total else f"{passes}/{total}{how}")
    shown = [part for part in parts if part]
    return "✓" if set(shown) == {"✓"} else ", ".join(shown)


def table(found):
    """A Markdown table: kinds by libraries."""
    libraries = [name for name in found if found[name] is not None]
    kinds = list(found["kedit"])
    lines = [f"| kind | {' | '.join(libraries)} |", "|---|" + "---|" * len(libraries)]
    for kind in kinds:
        cells = [cell(found[name].get(kind)) for name in libraries]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page():
    """All tables, with the versions that they were made with."""
    parts = []
    for backend, title in TITLES.items():
        file = RESULTS / f"{backend}.json"
        if not file.exists():
            continue
        kept = json.loads(file.read_text())
        for op, words in (("set", "`x[i] = v`"), ("add", "`x[i] += v`, where duplicates add up")):
            parts += [f"## {title}: {words}", "", table(kept["found"][op]), ""]
        parts += [f"{', '.join(kept['versions'])}.", ""]
    return "\n".join(parts)


def main():
    """Check what is named, or everything, and write the page."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{BACKEND}.json"
    kept = json.loads(file.read_text())["found"] if file.exists() else {"set": {}, "add": {}}
    for op in ("set", "add"):
        for name, make in LIBRARIES.items():
            if name and (len(sys.argv) == 1 or name.strip("`") in sys.argv[1:]):
                kept[op][name] = checked(name, make, op)
    file.write_text(json.dumps({"versions": versions(), "found": kept}) + "\n")
    before, after = PAGE.read_text().split(START)[0], PAGE.read_text().split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{page()}\n{END}{after}")


if __name__ == "__main__":
    main()
