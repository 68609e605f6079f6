"""Time the workloads on the running backend, each spelling in turn with the others, round by round.

    KERAS_BACKEND=jax python benchmarks/run.py [--seconds 0.5] [--only columns] [--modes eager,xla]

Writes `benchmarks/results/<backend>.json`; `report.py` makes tables of it. On a GPU, which
`gpu.sh` needs, writes `benchmarks/results/gpu/<backend>.json`.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from workloads import BACKEND, Workload, floats, models, workloads

Call = Callable[..., Any]


def copy(x: Any, *rest: Any) -> Any:
    """One pass over the tensor: the least that a new tensor can cost."""
    return ops.negative(x)


def modes() -> dict[str, Callable[[Call], Call]]:
    """Ways to run a function."""
    if BACKEND == "jax":
        import jax

        return {"eager": _as_it_is, "jit": jax.jit}
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def graph(call: Call) -> Call:
            return tf.function(call)

        def xla(call: Call) -> Call:
            return tf.function(call, jit_compile=True)

        return {"eager": _as_it_is, "graph": graph, "xla": xla}
    import torch

    def compiled(call: Call) -> Call:
        torch.compiler.reset()
        return torch.compile(call, fullgraph=True)

    return {"eager": _as_it_is, "compile": compiled}


def _as_it_is(call: Call) -> Call:
    return call


def ready(value: Any) -> Any:
    """Wait until a value is there."""
    if BACKEND == "jax":
        import jax

        return jax.block_until_ready(value)
    if BACKEND == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return value


def device() -> str | None:
    """The name of the GPU that is used, or None."""
    if BACKEND == "jax":
        import jax

        found = jax.devices()[0]
        return None if found.platform == "cpu" else str(found.device_kind)
    if BACKEND == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return None


def waits(call: Call, given: Sequence[Any]) -> bool | None:
    """Whether a call waits for the GPU before it returns; None if that cannot be asked."""
    if BACKEND != "torch" or device() is None:
        return None
    import torch

    call(*given)  # plans are made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(*given)
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def with_gradients(call: Call, wrap: Callable[[Call], Call]) -> Call:
    """A function that runs `call` and the way back, for every tensor of floats."""
    if BACKEND == "jax":
        import jax

        def both(upstream: Any, *given: Any) -> Any:
            floats = [x for x in given if ops.is_tensor(x) and "float" in str(x.dtype)]
            rest = [x for x in given if "float" not in str(x.dtype)]

            def of_floats(*floats: Any) -> Any:
                return call(floats[0], *rest, *floats[1:])

            value, back = jax.vjp(of_floats, *floats)
            return value, back(upstream)

        return wrap(both)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def record(upstream: Any, *given: Any) -> Any:
            floats = [x for x in given if x.dtype.is_floating]
            with tf.GradientTape() as tape:
                tape.watch(floats)
                value = call(*given)
            return value, tape.gradient(value, floats, upstream)

        return wrap(record)
    import torch

    wrapped = wrap(call)

    def run(upstream: Any, *given: Any) -> Any:
        value = wrapped(*[x.requires_grad_() if x.is_floating_point() else x for x in given])
        floats = [x for x in given if x.is_floating_point()]
        return value, torch.autograd.grad(value, floats, upstream, allow_unused=True)

    return run


def measure(calls: dict[str, Call], given: Sequence[Any], seconds: float) -> dict[str, list[float]]:
    """Times of every function that works, taken in turn."""
    calls = dict(calls)
    for name, call in list(calls.items()):
        try:
            for _ in range(3):
                ready(call(*given))
        except Exception as error:  # no gradient on JAX, sizes that XLA cannot know, and others
            if name == "kedit":
                raise
            print(f"without {name}, which gives {type(error).__name__}")
            del calls[name]
    start = time.perf_counter()
    for call in calls.values():
        ready(call(*given))
    rounds = max(5, min(1000, int(seconds * len(calls) / (time.perf_counter() - start))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            ready(call(*given))
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], other: str) -> float:
    """Median of the ratios of kedit to another, round by round."""
    pairs = zip(times["kedit"], times[other], strict=True)
    return statistics.median([mine / its for mine, its in pairs])


def tensors(workload: Workload) -> list[Any]:
    return [ops.convert_to_tensor(array) for array in workload.arrays]


def check_same(calls: dict[str, Call], given: Sequence[Any], names: list[str]) -> None:
    wanted = ops.convert_to_numpy(calls["kedit"](*given))
    for name in names:
        np.testing.assert_allclose(ops.convert_to_numpy(calls[name](*given)), wanted, 1e-4, 1e-5)


def run(workload: Workload, mode: str, backward: bool, seconds: float) -> dict[str, Any]:
    """Time one workload in one mode."""
    wrap = modes()[mode]
    spelled = {"kedit": workload.kedit, "copy": copy}
    spelled |= {f"native {n}": call for n, call in enumerate(workload.native)}
    spelled |= {f"keras {n}": call for n, call in enumerate(workload.by_keras)}
    given = tensors(workload)
    check_same(spelled, given, [n for n in spelled if n != "copy" and "set" not in workload.name])
    if backward:
        upstream = ops.ones(given[0].shape)
        given = [upstream, *given]
        spelled = {name: with_gradients(call, wrap) for name, call in spelled.items()}
    else:
        spelled = {name: wrap(call) for name, call in spelled.items()}
    found = row(workload.name, mode, backward, measure(spelled, given, seconds))
    if mode == "eager" and not backward:
        found["waits"] = waits(workload.kedit, given)
    return found


def row(name: str, mode: str, backward: bool, times: dict[str, list[float]]) -> dict[str, Any]:
    """What is kept of the times of a workload."""
    medians = {spelling: statistics.median(series) for spelling, series in times.items()}

    def best(kind: str) -> float | None:
        spellings = [spelling for spelling in medians if spelling.startswith(kind)]
        return ratio(times, min(spellings, key=medians.__getitem__)) if spellings else None

    return {
        "workload": name,
        "mode": mode,
        "backward": backward,
        "native": best("native"),
        "keras": best("keras"),
        "copy": best("copy"),
        "medians": medians,
    }


def run_models(seconds: float) -> list[dict[str, Any]]:
    """Time `predict` and an epoch of `fit` of a model with an edit inside."""
    x, y = floats(8192, 64), floats(8192, 10)
    built = models()

    def predict(model: Any) -> Call:
        return lambda: model.predict(x, batch_size=1024, verbose=0)

    def fit(model: Any) -> Call:
        return lambda: model.fit(x, y, batch_size=1024, verbose=0)

    return [
        row("a small model", do.__name__, False, measure(calls, (), seconds))
        for do in (predict, fit)
        for calls in [{name: do(model) for name, model in built.items()}]
    ]


def machine() -> dict[str, Any]:
    package = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}[BACKEND]
    version = __import__(package).__version__
    return {
        "backend": f"{BACKEND} {version}",
        "keras": keras.version(),
        "python": platform.python_version(),
        "machine": device() or f"{platform.machine()}, {os.cpu_count()} cores",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each spelling")
    parser.add_argument("--only", default="", help="workloads whose name holds this")
    parser.add_argument("--modes", default=",".join(modes()))
    parser.add_argument("--forward", action="store_true", help="leave out the way back")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Dynamo detected")
    rows = []
    folder = pathlib.Path(__file__).parent / "results"
    file = (folder if device() is None else folder / "gpu") / f"{BACKEND}.json"
    file.parent.mkdir(exist_ok=True)

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        if not arguments.only:
            file.write_text(json.dumps({**machine(), "rows": rows}, indent=1) + "\n")
        shown = [f"{row[kind] or float('nan'):6.2f}" for kind in ("native", "keras", "copy")]
        print(
            f"{row['workload']:48} {row['mode']:8} {'back' if row['backward'] else '    '} "
            f"{row['medians']['kedit'] * 1e6:10.1f} us  native, keras, copy x{' '.join(shown)}"
            f"{'  waits for the GPU' if row.get('waits') else ''}",
            flush=True,
        )

    for workload in workloads():
        if arguments.only not in workload.name:
            continue
        for mode in arguments.modes.split(","):
            if mode in workload.skips:
                continue
            for backward in (False, True)[: 1 if arguments.forward else 2]:
                keep(run(workload, mode, backward, arguments.seconds))
    if arguments.only in "a small model":
        for timed in run_models(arguments.seconds):
            keep(timed)


if __name__ == "__main__":
    main()
