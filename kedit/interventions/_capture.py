"""A model that returns the activations of another model."""

from collections.abc import Callable
from functools import partial
from os import PathLike
from typing import Any

import keras
import numpy as np

from kedit._language.decoding import check_keys, loading
from kedit._language.dtypes import kind
from kedit._language.types import Tensor
from kedit._run import ops
from kedit.errors import OperandError
from kedit.interventions._edited_model import EditedModel
from kedit.interventions._look import look
from kedit.interventions._on_disk import Activations, write
from kedit.interventions._partly_trained import PartlyTrained
from kedit.interventions._recurrent import check_recurrent
from kedit.interventions._run import Placed
from kedit.interventions._safe_running import SafelyRun
from kedit.interventions._site import Site, as_site
from kedit.interventions._sites import SiteInfo
from kedit.studies._batches import predict_on_batch


def capture(model: keras.Model, patterns: Any, **kwargs: Any) -> "Capture":
    """Make a model that returns the activations of `model`.

    `model` is shared, left unchanged, and runs in inference mode, no further than the
    last of the sites if each is called once for inputs of the shapes that it was built
    for. The activations of an edited model are those after its edits.

    Args:
        model: Model of any kind, or a layer.
        patterns: Layer, its name or address, a pattern of these, a site, or a list of
            these; see `kedit.interventions.site`.
        **kwargs: Keyword arguments of `keras.Model`, such as `name`.

    Returns:
        `kedit.interventions.Capture`: a model that returns a dict of activations by
        address, as `sites(model)` prints it. `:input` marks the input of a layer, and
        `:pattern` and other words what is inside of attention; `#1`, `#2` mark the later
        calls of a layer that is called several times.

    Raises:
        kedit.errors.OperandError: If a site is not in the model, is inside a recurrent
            layer that is not unrolled, or is not reached when the model runs.

    Gradient:
        The gradient of the activations. `gradients` returns gradients with respect to
        them.

    Example:
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
    >>> acts = kedit.interventions.capture(base, "h").predict(np.ones((1, 2)), verbose=0)
    >>> acts["h"].tolist()
    [[3.0, 3.0]]
    """
    return Capture(model, patterns, **kwargs)


@keras.saving.register_keras_serializable(package="kedit")
class Capture(SafelyRun):
    """The model that `kedit.interventions.capture` makes; takes the same arguments.

    Call arguments:
        inputs: The inputs of `model`.
    """

    edited: EditedModel

    def __init__(self, model: Any, patterns: Any, **kwargs: Any) -> None:
        edited = model if isinstance(model, EditedModel) else EditedModel(model, {})
        super().__init__(**{"dtype": edited.dtype_policy, "autocast": False, **kwargs})
        self.edited = edited
        several = isinstance(patterns, (list, tuple)) and not isinstance(patterns, SiteInfo)
        given = patterns if several else [patterns]
        every = [pair for pattern in given for pair in as_site(pattern).find(edited.base)]
        found = list(dict(every).items())  # each site once, however many patterns it matches
        self.patterns = [site for site, _ in found]
        check_recurrent(edited.base, self.patterns, [True] * len(found))
        self.built = edited.built
        # Where each site has one activation in a run, it may stop after the last.
        calls = (look(edited.base) if edited.base.built else None) or {}
        unnumbered = [layer for one, layer in found if one.call is None]
        self._is_numbered = not unnumbered
        self._stops = all([len(calls.get(id(layer), ())) == 1 for layer in unnumbered])
        self.found: Callable[[], list[tuple[Site, Any]]] = lambda: found

    def build(self, input_shape: Any) -> None:
        """Do nothing: the model has no weights of its own."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Any:
        seen: dict[str, Tensor] = {}

        def noting(site: Site) -> Any:
            def act(x: Tensor, number: int, piece: Any) -> Tensor:
                seen[label(site, number)] = x
                return x

            return act

        placed = [Placed(site, layer, noting(site)) for site, layer in self.found()]
        stops = self._stops and (self._is_numbered or self.edited.was_built_for(inputs))
        self.edited.run_with(placed, inputs, training=False, stops=stops)
        return {name: seen[name] for name in sorted(seen)}  # the order some compilers return

    def takes(self) -> Any:
        return self.edited.takes()

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return None

    def gradients(
        self, x: Any, score: Callable[[Any], Tensor], batch_size: int = 32
    ) -> dict[str, Any]:
        """Compute gradients of a score of the predictions with respect to the activations.

        Args:
            x: Inputs of the model, as NumPy arrays.
            score: Function that takes the predictions for a batch, and returns a tensor
                of shape `(batch_size,)`. Each number must depend on its own example only.
            batch_size: Number of examples per batch. Defaults to 32.

        Returns:
            A dict of NumPy arrays with the shapes of the activations.

        Raises:
            kedit.errors.OperandError: If an activation does not have a float dtype.

        Example:
        >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
        >>> acts = kedit.interventions.capture(base, "h")
        >>> score = lambda y: ops.sum(y**2, axis=-1)
        >>> acts.gradients(np.ones((1, 2)), score)["h"].tolist()
        [[6.0, 6.0]]
        """
        rows = len(keras.tree.flatten(x)[0])
        size = min(batch_size, rows)
        first = predict_on_batch(self, rows_of(x, np.arange(size)))
        model = Gradients(self, first, score)
        found: list[dict[str, Any]] = []
        for at in batches_of(rows, size):
            found.append(model.of_batch(rows_of(x, at)))
        return {name: np.concatenate([part[name] for part in found])[:rows] for name in first}

    def to_disk(
        self, path: str | PathLike[str], x: Any, *, batch_size: int = 32, verbose: int = 1
    ) -> Activations:
        """Write activations to a file, batch by batch, so that memory holds one batch.

        A run that was cut off goes on where it stopped: call it again with the same
        inputs, in the same order.

        Args:
            path: The file, of HDF5 format; `h5py` and many tools read it.
            x: Inputs of the model: arrays, a `keras.utils.PyDataset`, a `tf.data.Dataset`, a
                `DataLoader`, or an iterator over batches. As in `fit`, a batch may be a
                tuple of inputs and targets, of which the targets are left out.
            batch_size: Number of examples per batch, if `x` is arrays. Defaults to 32.
            verbose: 1 shows the progress, 0 nothing. Defaults to 1.

        Returns:
            `Activations`, a mapping from addresses to what the file holds, read lazily.
            bfloat16 is written as float32.

        Raises:
            kedit.errors.ShapeError: If shapes differ between batches.
            kedit.errors.OperandError: If there is no batch, or another file at `path`.

        Example:
        >>> import os, tempfile
        >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
        >>> acts = kedit.interventions.capture(base, "h")
        >>> batches = (np.full((8, 2), n) for n in range(4))
        >>> path = os.path.join(tempfile.mkdtemp(), "acts.h5")
        >>> with acts.to_disk(path, batches, verbose=0) as stored:
        ...     stored["h"][7:9].tolist()
        [[0.0, 0.0], [3.0, 3.0]]
        """
        write(partial(predict_on_batch, self), path, x, batch_size, verbose)
        return Activations(path)

    def get_config(self) -> dict[str, Any]:
        model = keras.saving.serialize_keras_object(self.edited)
        patterns = [site.get_config() for site in self.patterns]
        return {**super().get_config(), "model": model, "patterns": patterns}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Capture":
        deserialize = keras.saving.deserialize_keras_object
        check_keys("A saved Capture", config, {"model": dict, "patterns": list})
        model = deserialize(config["model"], custom_objects=custom_objects)
        with loading("A saved Capture", config["patterns"]):
            patterns = [Site.from_config(site) for site in config["patterns"]]
        return cls(**{**config, "model": model, "patterns": patterns})


def label(site: Site, number: int) -> str:
    """Return the name of the activation at a site in a call."""
    return str(site) if site.call is not None or number == 0 else f"{site}#{number}"


def batches_of(rows: int, size: int) -> list[Any]:
    """Return the numbers of the rows in batches of one size; the last row fills the last batch."""
    starts = range(0, rows, size)
    return [np.minimum(np.arange(start, start + size), rows - 1) for start in starts]


def rows_of(x: Any, at: Any) -> Any:
    """Return rows of the inputs of a model; None of None."""
    return None if x is None else keras.tree.map_structure(lambda leaf: np.asarray(leaf)[at], x)


class Zeros(keras.layers.Layer):
    """Adds zeros, one for each element of a batch, and keeps the Keras mask."""

    def __init__(self, shape: Any, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.values = self.add_weight(
            name="zeros", shape=shape, initializer="zeros", dtype="float32"
        )
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        return ops.add(x, ops.cast(self.values, x.dtype))


class Gradients(PartlyTrained):
    """Adds zeros to the activations. One step of descent turns them into negative gradients.

    Keras has no other way to get gradients that is the same on every backend.
    """

    def __init__(
        self, acts: Capture, activations: dict[str, Any], score: Any, has_targets: bool = False
    ) -> None:
        super().__init__(name="gradients", autocast=False)
        self.acts, self.score, self.has_targets = acts, score, has_targets
        self.zeros = {}
        for name, activation in activations.items():
            dtype = keras.backend.standardize_dtype(activation.dtype)
            if kind(dtype) != 2:
                raise OperandError(
                    "An activation should be of floats to have a gradient. Received: dtype "
                    f"{dtype!r} at `{name}`."
                )
            self.zeros[name] = Zeros(activation.shape)
        self.compile(optimizer=keras.optimizers.SGD(1.0))

    def trains_variable(self, variable: Any) -> bool:
        return any([variable is zeros.values for zeros in self.zeros.values()])

    def build(self, input_shape: Any) -> None:
        """Do nothing more."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Any:
        left = dict(self.zeros)

        def adding(site: Site) -> Any:
            def act(x: Tensor, number: int, piece: Any) -> Tensor:
                zeros = left.pop(label(site, number), None)  # once, if several sites have it
                return x if zeros is None else zeros(x)

            return act

        x, *targets = (inputs["x"], inputs["targets"]) if self.has_targets else (inputs,)
        placed = [Placed(site, layer, adding(site)) for site, layer in self.acts.found()]
        outputs = self.acts.edited.run_with(placed, x, training=False)
        self.add_loss(ops.sum(ops.cast(self.score(outputs, *targets), "float32")))
        return outputs

    def of_batch(self, x: Any, targets: Any = None) -> dict[str, Any]:
        found = {name: zeros.values for name, zeros in self.zeros.items()}
        for values in found.values():
            values.assign(ops.zeros(values.shape))
        self.train_on_batch({"x": x, "targets": targets} if self.has_targets else x)
        # Subtract from 0, so that no gradient is -0.
        return {name: 0.0 - ops.convert_to_numpy(values) for name, values in found.items()}
