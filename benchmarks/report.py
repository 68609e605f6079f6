"""Make a table and a picture of what `run.py` has measured, and put the table into the guide.

python benchmarks/report.py
"""

import json
import math
import pathlib
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
GUIDE = HERE.parent / "docs" / "guides" / "speed.md"
START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"
BACKENDS = ("tensorflow", "jax", "torch")
COMPILED = {"graph": "tf.function", "xla": "XLA", "jit": "jax.jit", "compile": "torch.compile"}


def results() -> dict[str, Any]:
    """What was measured, by backend."""
    files = [HERE / "results" / f"{backend}.json" for backend in BACKENDS]
    return {file.stem: json.loads(file.read_text()) for file in files if file.exists()}


def ratios(measured: dict[str, Any]) -> dict[tuple[str, str, str, bool], float | None]:
    """How many times as long as the native spelling, by backend, mode, workload and way back."""
    return {
        (backend, row["mode"], row["workload"], row["backward"]): row["native"]
        for backend, result in measured.items()
        for row in result["rows"]
    }


def columns(found: dict[Any, Any]) -> list[tuple[str, str]]:
    return list(dict.fromkeys([(backend, mode) for backend, mode, *_ in found]))


def edits(found: dict[Any, Any]) -> list[str]:
    names = dict.fromkeys([name for _, _, name, _ in found])
    return [name for name in names if name != "a small model"]


def shown(*numbers: float | None) -> str:
    return " / ".join(["-" if n is None or math.isnan(n) else f"{n:.2f}" for n in numbers])


def geometric_mean(numbers: list[float | None]) -> float:
    logs = [math.log(number) for number in numbers if number is not None]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def table(measured: dict[str, Any]) -> str:
    """A Markdown table: forward, and forward with the way back."""
    found = ratios(measured)
    modes = [(b, m) for b, m in columns(found) if m not in ("predict", "fit")]
    titles = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
    head = [f"{titles[b]} {COMPILED.get(m, m)}" for b, m in modes]
    lines = [f"| edit | {' | '.join(head)} |", "|---|" + "---|" * len(modes)]
    for name in edits(found):
        cells = [shown(*[found.get((b, m, name, way)) for way in (False, True)]) for b, m in modes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    means = [
        shown(*[geometric_mean([found.get((b, m, n, w)) for n in edits(found)]) for w in (0, 1)])
        for b, m in modes
    ]
    lines.append(f"| **geometric mean** | {' | '.join(means)} |")
    model = [
        f"{titles[b]} {shown(found.get((b, 'predict', 'a small model', False)))} and "
        f"{shown(found.get((b, 'fit', 'a small model', False)))}"
        for b in measured
    ]
    lines += ["", f"`predict` and `fit` of a small model with an edit inside: {', '.join(model)}."]
    versions = [result["backend"] for result in measured.values()]
    first = next(iter(measured.values()))
    lines += ["", f"{', '.join(versions)}, Keras {first['keras']}, {first['machine']}."]
    return "\n".join(lines)


def picture(measured: dict[str, Any], file: pathlib.Path) -> None:
    """The ratios of compiled edits as dots, those of eager ones as rings."""
    matplotlib.use("Agg")
    found = ratios(measured)
    names = edits(found)
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    colors = dict(zip(BACKENDS, ("tab:orange", "tab:blue", "tab:red"), strict=True))
    markers = {"eager": "o", "graph": "^", "xla": "o", "jit": "o", "compile": "o"}
    shifts = {"tensorflow": -0.22, "jax": 0.0, "torch": 0.22}
    for backend, mode in columns(found):
        if mode not in markers:
            continue
        points = [
            (value, len(names) - 1 - names.index(name) - shifts[backend])
            for (b, m, name, backward), value in found.items()
            if (b, m, backward) == (backend, mode, False) and name in names and value is not None
        ]
        axes.scatter(
            *zip(*points, strict=True),
            s=26,
            marker=markers[mode],
            facecolors="none" if mode == "eager" else colors[backend],
            edgecolors=colors[backend],
            label=f"{backend}, {COMPILED.get(mode, mode)}",
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [0.2, 0.5, 1, 2, 5, 10, 20, 50]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), reversed(names), fontsize=8)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_xlabel("time of kedit / time of the fastest native spelling (forward)")
    figure.legend(fontsize=7, loc="outside lower center", ncols=4)
    figure.savefig(file, dpi=130)


def main() -> None:
    measured = results()
    text = table(measured)
    print(text)
    picture(measured, HERE / "results" / "speed.png")
    guide = GUIDE.read_text()
    if START in guide:
        before, after = guide.split(START)[0], guide.split(END)[1]
        GUIDE.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    main()
