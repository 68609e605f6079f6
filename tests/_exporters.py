"""Every way to export a model from the running backend, and to run what was exported.

The tools come with the environments of `nox -s export`, and are imported when they are used.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
from _backend import BACKEND

Runner = Callable[[Sequence[Any]], list[Any]]
"""Runs an exported model on arrays, one for each input of the model in order."""


class Exporter(NamedTuple):
    """A format.

    Attributes:
        export: Exports a model, given a folder and a batch size, or None to leave it open, and
            returns what runs the result.
        batches: The batch sizes to run it with; one file serves them all if there are several.
    """

    export: Callable[[keras.Model, Path, int | None], Runner]
    batches: tuple[int, ...] = (1, 3)


def inputs_of(model: keras.Model) -> Any:
    """The inputs of a model, as `KerasTensor`s in the structure that it takes."""
    return model.takes() if hasattr(model, "takes") else model.input


def signature(model: keras.Model, batch: int | None) -> list[Any]:
    """What `export` takes as `input_signature`, with a batch size in place of None."""

    def spec(x: Any) -> Any:
        sizes = [batch if size is None else size for size in x.shape]
        return keras.InputSpec(shape=sizes, dtype=x.dtype, name=x.name)

    return [keras.tree.map_structure(spec, inputs_of(model))]


def options(model: keras.Model, batch: int | None = None) -> dict[str, Any]:
    """Arguments of `export`: none, if it finds out by itself what it needs."""
    shapes = [x.shape for x in keras.tree.flatten(inputs_of(model))]
    if batch is None and all([shape[:1] == (None,) for shape in shapes]):
        return {}
    return {"input_signature": signature(model, batch)}


def names(model: keras.Model) -> list[str]:
    return [x.name for x in keras.tree.flatten(inputs_of(model))]


def packed(model: keras.Model, given: Sequence[Any]) -> Any:
    return keras.tree.pack_sequence_as(inputs_of(model), list(given))


def arrays(outputs: Any) -> list[Any]:
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(outputs)]


def to_saved_model(model: keras.Model, folder: Path, batch: int | None) -> Runner:
    import tensorflow as tf

    model.export(str(folder / "saved"), verbose=False, **options(model))
    loaded = tf.saved_model.load(str(folder / "saved"))

    def run(given: Sequence[Any]) -> list[Any]:
        found = loaded.serve(packed(model, [tf.constant(x) for x in given]))
        return [y.numpy() for y in keras.tree.flatten(found)]

    return run


def to_onnx(model: keras.Model, folder: Path, batch: int | None) -> Runner:
    import onnxruntime

    path = str(folder / "model.onnx")
    more = {"opset_version": 18} if BACKEND == "tensorflow" else {}
    model.export(path, format="onnx", verbose=False, **more, **options(model, batch))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    takes = {x.name for x in session.get_inputs()}  # one that is not needed is left out

    def run(given: Sequence[Any]) -> list[Any]:
        named = dict(zip(names(model), given, strict=True))
        return session.run(None, {name: x for name, x in named.items() if name in takes})

    return run


def to_openvino(model: keras.Model, folder: Path, batch: int | None) -> Runner:
    import openvino

    path = str(folder / "model.xml")
    model.export(path, format="openvino", verbose=False, **options(model))
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    by_name = {
        name: port.get_any_name() for name, port in zip(names(model), compiled.inputs, strict=False)
    }

    def run(given: Sequence[Any]) -> list[Any]:
        named = dict(zip(names(model), given, strict=True))
        found = compiled({by_name[name]: x for name, x in named.items() if name in by_name})
        return [found[port] for port in compiled.outputs]

    return run


def to_litert(model: keras.Model, folder: Path, batch: int | None) -> Runner:
    import tensorflow as tf

    path = str(folder / "model.tflite")
    model.export(path, format="litert", verbose=False, **options(model, batch))
    interpreter = tf.lite.Interpreter(model_path=path)

    def run(given: Sequence[Any]) -> list[Any]:
        ports = interpreter.get_input_details()
        number = {name: position for position, name in enumerate(names(model))}
        # As in "serving_default_x:0" or "serving_default_args_0:0".
        ends = [port["name"].split(":")[0].rpartition("_")[2] for port in ports]
        order = [number[end] if end in number else int(end) for end in ends]
        for port, place in zip(ports, order, strict=True):
            interpreter.resize_tensor_input(port["index"], given[place].shape)
        interpreter.allocate_tensors()
        for port, place in zip(ports, order, strict=True):
            interpreter.set_tensor(port["index"], given[place])
        interpreter.invoke()
        return [interpreter.get_tensor(port["index"]) for port in interpreter.get_output_details()]

    return run


def to_torch(model: keras.Model, folder: Path, batch: int | None) -> Runner:
    import torch

    path = str(folder / "model.pt2")
    if batch is None:
        size = torch.export.Dim("batch", min=1, max=64)

        def open_axes(x: Any) -> Any:
            return {axis: size for axis, length in enumerate(x.shape) if length is None}

        shapes = keras.tree.map_structure(open_axes, inputs_of(model))
        more: Any = {"dynamic_shapes": [(shapes,)]}
    else:
        more = {}
    model.export(path, format="torch", verbose=False, **more, **options(model, batch))
    module = torch.export.load(path).module()

    def run(given: Sequence[Any]) -> list[Any]:
        return arrays(module(packed(model, [torch.tensor(x) for x in given])))

    return run


def to_jax(model: keras.Model, folder: Path, batch: int | None) -> Runner:
    import jax

    (size,) = jax.export.symbolic_shape("batch")

    def spec(x: Any) -> Any:
        sizes = [size if length is None else length for length in x.shape]
        return jax.ShapeDtypeStruct(sizes, x.dtype)

    function = jax.jit(lambda inputs: model(inputs, training=False))
    made = jax.export.export(function)(keras.tree.map_structure(spec, inputs_of(model)))
    (folder / "model.bin").write_bytes(made.serialize())
    loaded = jax.export.deserialize((folder / "model.bin").read_bytes())
    return lambda given: arrays(loaded.call(packed(model, given)))


EXPORTERS: dict[str, dict[str, Exporter]] = {
    "tensorflow": {
        "SavedModel": Exporter(to_saved_model),
        "LiteRT": Exporter(to_litert),
        "ONNX": Exporter(to_onnx),
        "OpenVINO": Exporter(to_openvino),
    },
    "jax": {
        "SavedModel": Exporter(to_saved_model),
        "jax.export": Exporter(to_jax),
    },
    "torch": {
        "torch": Exporter(to_torch, (3,)),
        "torch, open batch": Exporter(to_torch),
        "ONNX": Exporter(to_onnx),
        "ONNX, fixed batch": Exporter(to_onnx, (3,)),
        "OpenVINO": Exporter(to_openvino),
    },
}
"""The formats of each backend, by the names that the guide gives them."""
