"""Find a change of chosen input elements that changes the prediction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kedit._run import ops
from kedit._show import html
from kedit._show.code import outline
from kedit._show.plots import axes
from kedit.errors import DTypeError, OperandError
from kedit.studies._batches import predict_on_batch
from kedit.studies._predict import arrays, change_leaf, check_model, leaf_of, selected
from kedit.studies._search import Goal, Search

_STEPS_A_ROUND = 10


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """Results of `counterfactual`.

    Attributes:
        x: Array of shape `(num_samples, *sample_shape)`: the original samples.
        edited: Array of the same shape: the samples after the change.
        before: Array of shape `(num_samples, *output_shape)`: predictions for `x`.
        after: Array of the same shape: predictions for `edited`.
        reached: Boolean array of shape `(num_samples,)`: whether the model predicts the
            target for `edited`. If not, `edited` is the last attempt.
    """

    x: Any
    edited: Any
    before: Any
    after: Any
    reached: Any

    @property
    def delta(self) -> Any:
        """The change, `edited - x`: exactly 0 where nothing may change."""
        return self.edited - self.x

    def __repr__(self) -> str:
        return outline(self)

    def _repr_html_(self) -> str:
        """What was found in a notebook, with a row for each sample."""
        header = ("sample", "before", "after", "reached", "elements changed")
        rows = [
            (str(number), before, after, "yes" if reached else "no", np.count_nonzero(delta))
            for number, (before, after, reached, delta) in enumerate(
                zip(self.before, self.after, self.reached, self.delta, strict=True)
            )
        ]
        title = f"Target reached by {np.count_nonzero(self.reached)} of {len(self.x)} samples"
        return html.table(title, header, rows)

    def plot(self, ax: Any = None, *, index: int = 0) -> Any:
        """Draw one sample, its change, and the edited sample, as images or as bars.

        Args:
            ax: Three matplotlib axes to draw on. Defaults to None: new axes.
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
    """Adds a weight to the free elements of a batch; the rest passes unchanged."""

    def __init__(self, shape: Any, free: Any, l1: float, project: Callable[[Any], Any]) -> None:
        super().__init__(name="delta", dtype="float32", autocast=False)
        self.l1, self.free = l1, free
        self.delta = self.add_weight(
            shape=shape, initializer="zeros", constraint=project, name="delta"
        )

    def call(self, inputs: Any) -> Any:
        # Take `abs` of the masked weight only: the gradient of |0| is not 0 on every backend.
        free = ops.convert_to_tensor(self.free)
        delta = ops.where(free, ops.convert_to_tensor(self.delta), 0.0)
        if self.l1:
            self.add_loss(self.l1 * ops.sum(ops.abs(delta)) / delta.shape[0])
        return inputs + ops.cast(delta, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


class _Wrapper(keras.Model):
    """A model with a layer in front. The model runs in inference mode, even in training."""

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

    Trains a weight that is added to `x`. Meanwhile the model is frozen and runs as in
    `predict`; it is left unchanged. Of all changes tried that reach the target, each
    sample keeps the one with the smallest sum of absolute values.

    Args:
        model: Any `keras.Model` with one output.
        x: Input of the model, of shape `(num_samples, *sample_shape)`, or a list or dict
            of inputs. The edited input must be floats. All samples are trained at
            once; `x` is left unchanged.
        target: The prediction to reach, one for all samples or one for each: integers
            for classes, otherwise numbers with the shape of the outputs.
        free: Elements that may change, such as `sample[...]` or `sample[[0, 3]]`.
        loss: Keras loss or its name. Defaults to None: the mean squared error for
            numbers, and for classes the negative logarithm of the probability of the
            class. The outputs are taken as probabilities; a single output is the
            probability of class 1. For logits, write
            `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.
        l1: Weight of the sum of absolute changes in the loss. If positive, changes
            are sparse: the smallest ones are undone as long as the target is reached.
            Defaults to 0.
        minimum: Smallest value of a free element. Defaults to None.
        maximum: Largest value of a free element. Defaults to None.
        tolerance: How far a predicted number may miss the target, relative to the size
            of the target if that exceeds 1. Defaults to 0.01.
        learning_rate: Learning rate of Adam. Defaults to None: a hundredth of the
            range of `x`.
        steps: Maximum number of steps. Defaults to 300.
        path: Which of several inputs to edit, as in `edit.on(path)`. Defaults to None:
            there is one.
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
    before = predict_on_batch(model, given)
    if not isinstance(before, np.ndarray):
        raise OperandError(
            "A counterfactual should be given a model with one output. Received: one with "
            f"{len(keras.tree.flatten(before))}. Write `keras.Model(model.input, output)`."
        )
    goal = Goal(target, before, tolerance)
    low = -np.inf if minimum is None else minimum
    high = np.inf if maximum is None else maximum

    def added(delta: Any) -> Any:
        """Return the input after a change, exactly within its bounds, and its prediction."""
        edited = np.where(mask, np.clip(leaf + delta, low, high), leaf).astype(leaf.dtype)
        return edited, predict_on_batch(model, change_leaf(lambda _: edited, given, path))

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
