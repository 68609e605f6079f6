"""What carries data to a model, by name: each applies an edit to batches in its own way.

The one file of the project that imports other frameworks beside the running backend; it is
imported by the tests marked `carriers` alone, in an environment that holds them all.
"""

import json
import pickle
from typing import Any

import datasets
import grain
import jax.numpy
import keras
import numpy as np
import tensorflow as tf
import torch
from _backend import to_numpy
from absl import flags
from captum import attr as captum  # noqa: F401
from keras import ops

import kedit

datasets.disable_progress_bars()
flags.FLAGS.mark_as_parsed()  # which Grain's processes wait for, in a program that is not absl's


class Batches(keras.utils.PyDataset):
    def __init__(self, batches: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Any:
        return (self.batches[number],)


class Transformed(torch.utils.data.Dataset):  # type: ignore[misc]
    """A dataset with a transform, as torchvision's are."""

    def __init__(self, batches: Any, transform: Any) -> None:
        self.batches, self.transform = batches, transform

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Any:
        return self.transform(self.batches[number])


class Collate:
    """Joins samples, then edits the batch."""

    def __init__(self, edit: Any) -> None:
        self.edit = edit

    def __call__(self, samples: Any) -> Any:
        joined = torch.utils.data.default_collate(samples)
        return self.edit(*joined) if isinstance(joined, list) else self.edit(joined)


def in_py_dataset(workers: int) -> Any:
    def carry(edit: Any, batches: Any) -> Any:
        given = Batches(batches, workers=max(workers, 1), use_multiprocessing=workers > 0)
        edited = kedit.inputs.EditedDataset(given, edit)
        if not workers:
            return [batch for (batch,) in edited]
        # Keras's own processes, by way of a model that hands out what it is given.
        inputs = keras.Input(batches[0].shape[1:], dtype=batches[0].dtype.name)
        model = keras.Model(inputs, keras.layers.Identity(dtype=batches[0].dtype.name)(inputs))
        return list(model.predict(edited, verbose=0).reshape(len(batches), *batches[0].shape))

    return carry


def in_data_loader(workers: int, *, collate: bool) -> Any:
    def carry(edit: Any, batches: Any) -> Any:
        samples = [sample for batch in batches for sample in batch] if collate else batches
        loader = torch.utils.data.DataLoader(
            samples if collate else Transformed(batches, edit),
            batch_size=len(batches[0]) if collate else None,
            collate_fn=Collate(edit) if collate else None,
            num_workers=workers,
        )
        return list(loader)

    return carry


def pairs_in_data_loader(edit: Any, pairs: Any, workers: int) -> Any:
    return torch.utils.data.DataLoader(
        pairs, batch_size=2, collate_fn=Collate(edit), num_workers=workers
    )


def in_tf_data(spec: Any, apply: Any = None) -> Any:
    def carry(edit: Any, batches: Any) -> Any:
        signature = tf.TensorSpec(spec(batches[0].shape), batches[0].dtype)
        given = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
        edited = given.map(edit if apply is None else apply(edit), num_parallel_calls=2)
        assert edited.element_spec.dtype == signature.dtype
        return [batch.numpy() for batch in edited]

    return carry


def in_grain(edit: Any, batches: Any) -> Any:
    return list(grain.MapDataset.source(batches).map(edit))


def in_hugging_face(method: str) -> Any:
    def carry(edit: Any, batches: Any) -> Any:
        shape, dtype = batches[0].shape, batches[0].dtype.name
        column = datasets.List(datasets.List(datasets.Value(dtype)))
        rows = datasets.Dataset.from_dict(
            {"x": np.concatenate(batches)}, features=datasets.Features({"x": column})
        ).with_format("numpy", dtype=dtype)
        if method == "map":
            rows = rows.map(edit.on("x"), batched=True, batch_size=shape[0])
            assert rows.features["x"] == column
            found = rows[:]["x"]
        else:
            found = rows.with_transform(edit.on("x"))[:]["x"].astype(dtype)
        return list(found.reshape(-1, *shape))

    return carry


def one_by_one(apply: Any) -> Any:
    return lambda edit, batches: [apply(edit, batch) for batch in batches]


def in_container(make: Any) -> Any:
    """A tensor of any framework gives one of the same framework."""

    def apply(edit: Any, batch: Any) -> Any:
        given = make(batch)
        kept = to_array(given).copy()
        edited = edit(given)
        assert type(edited) is type(given)
        assert edited.dtype == given.dtype
        np.testing.assert_array_equal(to_array(given), kept)
        return edited

    return one_by_one(apply)


def by_json(edit: Any) -> Any:
    return type(edit).from_config(json.loads(json.dumps(edit.get_config())))


def layer(edit: Any) -> Any:
    return kedit.inputs.InputEditing(edit)


CARRIERS = {
    "NumPy": one_by_one(lambda edit, x: edit(x)),
    "lists": one_by_one(lambda edit, x: edit(x.tolist()).astype(x.dtype)),
    "a tensor": one_by_one(lambda edit, x: edit(ops.convert_to_tensor(x))),
    "a tensor of JAX": in_container(jax.numpy.asarray),
    "a tensor of PyTorch": in_container(torch.tensor),
    "a tensor of TensorFlow": in_container(tf.convert_to_tensor),
    "pickle": one_by_one(lambda edit, x: pickle.loads(pickle.dumps(edit))(x)),
    "JSON": one_by_one(lambda edit, x: by_json(edit)(x)),
    "the layer": one_by_one(lambda edit, x: layer(edit)(x)),
    "the layer, of a tensor": one_by_one(lambda edit, x: layer(edit)(ops.convert_to_tensor(x))),
    "tf.data": in_tf_data(tuple),
    "tf.data, batches of unknown size": in_tf_data(lambda shape: (None, *shape[1:])),
    "tf.data, with the layer": in_tf_data(lambda shape: (None, *shape[1:]), layer),
    "Grain": in_grain,
    "DataLoader, 0 workers": in_data_loader(0, collate=False),
    "DataLoader, 2 workers": in_data_loader(2, collate=False),
    "DataLoader, collate": in_data_loader(0, collate=True),
    "Hugging Face, map": in_hugging_face("map"),
    "Hugging Face, with_transform": in_hugging_face("with_transform"),
    "PyDataset, 0 workers": in_py_dataset(0),
    "PyDataset, 2 processes": in_py_dataset(2),
}


def to_array(x: Any) -> Any:
    """Numbers of any framework's tensor."""
    return to_numpy(x) if ops.is_tensor(x) else np.asarray(x)


class EditNumber:
    """Applies the edit that comes with an element; so one pipeline serves all edits."""

    def __init__(self, edits: Any) -> None:
        self.edits = edits

    def __call__(self, element: Any) -> Any:
        number, x = element
        return self.edits[number](x)


def in_grain_processes(edits: Any, elements: Any) -> Any:
    """What two processes of Grain make of `(number of the edit, x)`."""
    pipeline = grain.MapDataset.source(elements).map(EditNumber(edits)).to_iter_dataset()
    options = grain.MultiprocessingOptions(num_workers=2)
    return list(pipeline.mp_prefetch(options))


class DrawNumber:
    """Applies a random edit to batches of two, by the numbers of their samples."""

    def __init__(self, random: Any, epoch: int) -> None:
        self.random, self.epoch = random, epoch

    def __call__(self, number: int, x: Any) -> Any:
        return self.random(x, [2 * number, 2 * number + 1], self.epoch)


class Drawn(Transformed):
    def __getitem__(self, number: int) -> Any:
        return self.transform(number, self.batches[number])


def random_in_grain(random: Any, batches: Any, epochs: int) -> Any:
    found = []
    for epoch in range(epochs):
        pipeline = grain.MapDataset.source(batches).map_with_index(DrawNumber(random, epoch))
        options = grain.MultiprocessingOptions(num_workers=2)
        found += pipeline.to_iter_dataset().mp_prefetch(options)
    return found


def random_in_data_loader(random: Any, batches: Any, epochs: int) -> Any:
    found = []
    for epoch in range(epochs):
        dataset = Drawn(batches, DrawNumber(random, epoch))
        found += torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    return found
