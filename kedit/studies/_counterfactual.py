"""The change of chosen elements of an input that would have changed the prediction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kedit._run import ops
from kedit.errors import DTypeError, OperandError
from kedit.studies._plots import axes
from kedit.studies._predict import arrays, change_leaf, check_model, leaf_of, selected
from kedit.studies._search import Goal, Search

_STEPS_A_ROUND = 10


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """What `counterfactual` found.

    Attributes:
        x: Array of shape `(num_samples, *sample_shape)`: what was given.
        edited: Array of the same shape: what the model is to predict the target for.
        before: Array of shape `(num_samples, *output_shape)`: the predictions for `x`.
        after: Array of the same shape: those for `edited`.
        reached: Boolean array of shape `(num_samples,)`: whether the target is
            predicted for `edited`. Where not, that is the last one tried.
    """

    x: Any
    edited: Any
    before: Any
    after: Any
    reached: Any

    @property
    def delta(self) -> Any:
        """What was added, `edited - x`: exactly 0 where nothing may change."""
        return self.edited - self.x

    def plot(self, ax: Any = None, *, index: int = 0) -> Any:
        """Draw one sample before, its change, and after: as images, or as bars.

        Args:
            ax: Three axes of matplotlib. Defaults to None: new ones.
            index: Number of the sample. Defaults to 0.

        Returns:
            The three axes.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        drawn = [np.squeeze(part[index]) for part in (self.x, self.delta, self.edited)]
        low, high = min(drawn[0].min(), drawn[2].min()), max(drawn[0].max(), drawn[2].max())
        most = np.abs(drawn[1]).max() or 1.0
        given = axes(ax, 3)
        for place, part, title in zip(given, drawn, ("x", "change", "edited"), strict=True):
            is_change = title == "change"
            limits = (-most, most) if is_change else (low, high)
            if part.ndim == 2:
                colors = "RdBu_r" if is_change else "gray_r"
                image = place.imshow(part, cmap=colors, vmin=limits[0], vmax=limits[1])
                place.figure.colorbar(image, ax=place, shrink=0.8)
            else:
                place.bar(np.arange(part.size), np.ravel(part), color="tab:orange")
                place.set(xlabel="element")
            place.set(title=title)
        return given


class _Delta(keras.layers.Layer):
    """Adds a weight to a batch, where elements are free; the rest passes unchanged."""

    def __init__(self, shape: Any, free: Any, l1: float, project: Callable[[Any], Any]) -> None:
        super().__init__(name="delta", dtype="float32", autocast=False)
        self.l1, self.free = l1, free
        self.delta = self.add_weight(
            shape=shape, initializer="zeros", constraint=project, name="delta"
        )

    def call(self, inputs: Any) -> Any:
        # Only the masked weight counts: the gradient of |0| is not 0 on every backend.
        free = ops.convert_to_tensor(self.free)
        delta = ops.where(free, ops.convert_to_tensor(self.delta), 0.0)
        if self.l1:
            self.add_loss(self.l1 * ops.sum(ops.abs(delta)) / delta.shape[0])
        return inputs + ops.cast(delta, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


class _Wrapper(keras.Model):
    """A model with a layer in front of it; the model infers, also while this is trained."""

    def __init__(self, layer: Any, model: Any, path: str | None) -> None:
        super().__init__(name="counterfactual")
        self.layer, self.base, self.place = layer, model, path

    def call(self, inputs: Any) -> Any:
        return self.base(change_leaf(self.layer, inputs, self.place), training=False)


def counterfactual(
    model: Any,
    x: Any,
    target: Any,
    free: Any,
    *,
    loss: Any = None,
    l1: float = 0.0,
    minimum: float | None = None,
    maximum: float | None = None,
    tolerance: float = 0.01,
    learning_rate: float | None = None,
    steps: int = 300,
    path: str | None = None,
    verbose: int = 1,
) -> Counterfactual:
    """Change chosen elements of each sample until the model predicts the target.

    A weight that is added to `x` is trained; the model is frozen meanwhile, runs as in
    `predict`, and is left unchanged. Of all changes on the way that reach the target,
    each sample keeps the smallest, by the sum of absolute values.

    Args:
        model: Any `keras.Model` with one output.
        x: What the model takes, `(num_samples, *sample_shape)`, floats, or several in
            a list or dict. All samples are trained at once; `x` is left unchanged.
        target: What should be predicted, one for all or one for each sample:
            integers for classes, else numbers of the shape of the outputs.
        free: Which elements may change, as `sample[...]` or `sample[[0, 3]]`.
        loss: Keras loss or its name. Defaults to None: the negative logarithm of
            the probability of the class, which the outputs are taken for (one
            output is that of class 1 of two), and for numbers the mean squared
            error. For logits, `keras.losses.SparseCategoricalCrossentropy(
            from_logits=True)`.
        l1: Weight of the sum of absolute changes beside the loss. If positive,
            changes are sparse: the smallest ones are taken back as long as the target
            is reached. Defaults to 0.
        minimum: Least value of a free element. Defaults to None.
        maximum: Greatest value of a free element. Defaults to None.
        tolerance: By how much a predicted number may miss the target, relative to
            its size if that exceeds 1. Defaults to 0.01.
        learning_rate: Learning rate of Adam. Defaults to None: a hundredth of the
            range of `x`.
        steps: Greatest number of steps. Defaults to 300.
        path: Of several inputs, which one is edited, as in `edit.on(path)`.
            Defaults to None: there is one.
        verbose: As for `kedit.studies.sweep`.

    Returns:
        `kedit.studies.Counterfactual`, with `x`, `edited`, `delta`, `before`, `after`,
        `reached` and `plot()`.

    Raises:
        kedit.errors.EditError: If the selection or the target do not fit.

    Gradient:
        None: the results are NumPy arrays.

    References:
        - Wachter et al., 2018, "Counterfactual explanations without opening the black
          box".

    Example:
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[3.0], [2.0]]), np.zeros(1)])
    >>> x = np.zeros((1, 2), "float32")
    >>> found = kedit.studies.counterfactual(
    ...     model, x, 6.0, free=kedit.sample[0], learning_rate=0.1, verbose=0
    ... )
    >>> found.edited.round(1).tolist()
    [[2.0, 0.0]]
    """
    check_model(model)
    given = arrays(x)
    leaf = leaf_of(given, path)
    if leaf.dtype.kind != "f":
        raise DTypeError(
            f"A counterfactual should be given floats, which change gradually. Received: an array "
            f"of dtype {leaf.dtype.name!r}. Cast it, as in `x.astype('float32')`."
        )
    mask = selected(free, leaf)
    before = model.predict_on_batch(given)
    if not isinstance(before, np.ndarray):
        raise OperandError(
            "A counterfactual should be given a model with one output. Received: one with "
            f"{len(keras.tree.flatten(before))}. Write `keras.Model(model.input, output)`."
        )
    goal = Goal(target, before, tolerance)
    low = -np.inf if minimum is None else minimum
    high = np.inf if maximum is None else maximum

    def added(delta: Any) -> Any:
        """What was given with a change, exactly within its bounds, and the prediction for it."""
        edited = np.where(mask, np.clip(leaf + delta, low, high), leaf).astype(leaf.dtype)
        return edited, model.predict_on_batch(change_leaf(lambda _: edited, given, path))

    def project(delta: Any) -> Any:
        return ops.where(ops.convert_to_tensor(mask), ops.clip(delta, low - leaf, high - leaf), 0.0)

    layer = _Delta(leaf.shape, mask, l1, project)
    search = Search(goal, leaf, added)
    if learning_rate is None:
        learning_rate = float(leaf.max() - leaf.min()) / 100 or 0.01
    frozen = list(model.trainable_variables)
    try:
        for variable in frozen:
            variable.trainable = False
        wrapper = _Wrapper(layer, model, path)
        wrapper.compile(keras.optimizers.Adam(learning_rate), loss or goal.loss)
        bar = keras.utils.Progbar(steps, verbose=verbose)
        for start in range(0, steps, _STEPS_A_ROUND):
            if search.reached.all() and not l1:
                bar.update(steps, finalize=True)
                break
            rest = min(_STEPS_A_ROUND, steps - start)
            for _ in range(rest):
                wrapper.train_on_batch(given, goal.target)
            search.look_at(ops.convert_to_numpy(layer.delta))
            bar.update(start + rest)
    finally:
        for variable in frozen:
            variable.trainable = True
    if l1:
        search.take_back()
    edited, after = added(search.delta)
    return Counterfactual(leaf, edited, before, after, goal.is_reached(after))
