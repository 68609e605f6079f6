"""Predictions of a model with each group of input elements ablated in turn."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kedit._at import Place, sample
from kedit._show import html
from kedit._show.code import outline
from kedit._show.plots import axes
from kedit.errors import OperandError
from kedit.studies._plots import of_output
from kedit.studies._predict import (
    arrays,
    check_model,
    edit_of,
    leaf_of,
    predict_edited,
    selected,
)


@dataclass(frozen=True, eq=False)
class Ablation:
    """Results of `ablate`.

    Attributes:
        before: Array of shape `(num_samples, *output_shape)`: predictions for `x`.
        after: Array of shape `(num_groups, num_samples, *output_shape)`: predictions
            with one group ablated. For a model with several outputs, a list or dict.
        members: List with a boolean array for each group, True for its elements. Each
            broadcasts to `(num_samples, *sample_shape)`.
    """

    before: Any
    after: Any
    members: list[Any]

    @property
    def effects(self) -> Any:
        """How much ablating a group lowers the prediction, `before - after`."""
        return self.before - self.after

    def attributions(self, output: int | tuple[int, ...] | None = None) -> Any:
        """Assign the effects to the elements of the groups.

        Args:
            output: Which number of a prediction to use. Defaults to None: there is one.

        Returns:
            Array of shape `(num_samples, *sample_shape)`. An element in several groups
            gets the mean of their effects, and an element in no group gets 0.
        """
        effects = of_output(self.after, output, 2)
        effects = of_output(self.before, output, 1) - effects
        total: Any = 0.0
        count: Any = 0
        for effect, member in zip(effects, self.members, strict=True):
            one_each = effect.reshape(-1, *[1] * (member.ndim - 1))
            total = total + np.where(member, one_each, 0)
            count = count + np.asarray(member, int)
        return total / np.maximum(count, 1)

    def __repr__(self) -> str:
        return outline(self)

    def _repr_html_(self) -> str:
        """The effects in a notebook, with a row for each group."""
        if not isinstance(self.after, np.ndarray):
            return html.code(repr(self))
        means = self.effects.mean(axis=1)
        rows = [(str(number), mean) for number, mean in enumerate(means)]
        title = f"Prediction lost by ablation, mean of {len(self.before)} samples"
        return html.table(title, ("group", "mean effect"), rows)

    def plot(
        self, output: int | tuple[int, ...] | None = None, ax: Any = None, *, index: int = 0
    ) -> Any:
        """Draw the attributions of one sample: a map, or a bar for each element.

        Args:
            output: As for `attributions`.
            ax: Matplotlib axes to draw on. Defaults to None: new axes.
            index: Number of the sample. Defaults to 0.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        (ax,) = axes(ax)
        found = np.squeeze(self.attributions(output)[index])
        if found.ndim == 2:
            most = np.abs(found).max() or 1.0
            image = ax.imshow(found, cmap="RdBu_r", vmin=-most, vmax=most)
            ax.figure.colorbar(image, ax=ax, label="prediction lost by ablation")
        else:
            ax.bar(np.arange(found.size), np.ravel(found), color="tab:orange")
            ax.set(xlabel="element", ylabel="prediction lost by ablation")
        return ax


def ablate(
    model: Any,
    x: Any,
    groups: Any = None,
    baseline: Any = 0,
    *,
    path: str | None = None,
    batch_size: int | None = None,
    verbose: int = 1,
) -> Ablation:
    """Predict with each group of elements in turn overwritten by a baseline.

    If the groups are windows of an image, this is occlusion; if they are single features,
    it is feature ablation.

    Args:
        model: Any `keras.Model`; it is left unchanged.
        x: Input of the model, of shape `(num_samples, *sample_shape)`, or a list or
            dict of inputs. Batches are collected: of a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a `DataLoader` or an iterator, without targets.
            It is left unchanged.
        groups: Integer array that broadcasts to `sample_shape`, with the group number
            of each element, starting at 0, or -1 for no group. Or a list of selections,
            such as `[sample[i : i + 2] for i in range(7)]`, which may overlap. Defaults
            to None: each element is a group.
        baseline: Value to write: a number, or an array that broadcasts to
            `sample_shape`, or to each selection in a list of selections. Defaults to 0.
        path: As for `sweep`.
        batch_size: As for `sweep`.
        verbose: As for `sweep`.

    Returns:
        `kedit.studies.Ablation`, with `before`, `after`, `effects`, `attributions()`
        and `plot()`.

    Raises:
        kedit.errors.EditError: If the groups or the baseline do not fit the data.

    Gradient:
        None: the results are NumPy arrays.

    References:
        - Zeiler and Fergus, 2014, "Visualizing and understanding convolutional
          networks": occlusion.

    Example:
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2.0)])
    >>> found = kedit.studies.ablate(model, np.ones((1, 3)), verbose=0)
    >>> found.effects.shape, found.attributions(output=0).tolist()
    ((3, 1, 3), [[2.0, 0.0, 0.0]])
    """
    check_model(model)
    x = arrays(x)
    leaf = leaf_of(x, path)
    several = isinstance(groups, (list, tuple)) and any([isinstance(g, Place) for g in groups])
    selections = groups if several else _selections(groups, leaf.shape[1:])
    edits = [edit_of(selection, baseline, path) for selection in selections]
    outputs = predict_edited(model, x, [None, *edits], batch_size, verbose)
    return Ablation(
        keras.tree.map_structure(lambda output: output[0], outputs),
        keras.tree.map_structure(lambda output: output[1:], outputs),
        [selected(selection, leaf) for selection in selections],
    )


def _selections(groups: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return a selection for each number in an array of groups."""
    numbers = np.arange(math.prod(shape)).reshape(shape) if groups is None else np.asarray(groups)
    if numbers.dtype.kind not in "iu" or not numbers.size or numbers.max() < 0:
        raise OperandError(
            "`groups` should be an array of the numbers of groups, from 0 on, or a list of "
            f"selections. Received: {groups!r}. Write `[sample[:3], sample[3:]]`."
        )
    return [sample.where(numbers == number) for number in range(numbers.max() + 1)]
