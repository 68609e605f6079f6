"""Predictions of a model as a part of its input takes each of several values."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kedit._show import html
from kedit._show.code import outline
from kedit._show.plots import axes
from kedit.errors import OperandError
from kedit.studies._plots import of_output
from kedit.studies._predict import arrays, check_model, edit_of, predict_edited


@dataclass(frozen=True, eq=False)
class Sweep:
    """Results of `sweep`.

    Attributes:
        label: The selection, as code.
        values: Array of shape `(num_values, ...)`: the values that were written.
        outputs: Array of shape `(num_values, num_samples, *output_shape)`: the
            predictions. For a model with several outputs, a list or dict of arrays.
    """

    label: str
    values: Any
    outputs: Any

    @property
    def average(self) -> Any:
        """Partial dependence: the mean over the samples, `(num_values, *output_shape)`."""
        return np.mean(self.outputs, axis=1)

    def __repr__(self) -> str:
        return outline(self)

    def _repr_html_(self) -> str:
        """The averages in a notebook, with a row for each value."""
        if not isinstance(self.outputs, np.ndarray):
            return html.code(repr(self))
        rows = list(zip(self.values, self.average, strict=True))
        title = f"Predictions for each value of `{self.label}`"
        return html.table(title, ("value", "average prediction"), rows)

    def plot(self, output: int | tuple[int, ...] | None = None, ax: Any = None) -> Any:
        """Draw a curve for each sample, and their average.

        Args:
            output: Which number of a prediction to use. Defaults to None: there is one.
            ax: Matplotlib axes to draw on. Defaults to None: new axes.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        curves = of_output(self.outputs, output, 2)
        (ax,) = axes(ax)
        numbers = self.values if self.values.ndim == 1 else np.arange(len(self.values))
        ax.plot(numbers, curves, color="tab:gray", alpha=0.3, linewidth=0.8)
        ax.plot(numbers, curves.mean(axis=1), color="tab:orange", linewidth=2.5, label="average")
        ax.set(xlabel=self.label if self.values.ndim == 1 else "number of the value")
        ax.set(ylabel="prediction" if output is None else f"prediction [{output}]")
        ax.legend()
        return ax


def sweep(
    model: Any,
    x: Any,
    selection: Any,
    values: Any,
    *,
    path: str | None = None,
    batch_size: int | None = None,
    verbose: int = 1,
) -> Sweep:
    """Predict with each of several values written into every sample.

    The predictions for one sample are its individual conditional expectation curve. The
    average of the curves is the partial dependence of the model on the selected elements.

    Args:
        model: Any `keras.Model`; it is left unchanged.
        x: Input of the model, of shape `(num_samples, *sample_shape)`, or a list or
            dict of inputs. Batches are collected: of a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a `DataLoader` or an iterator, without targets.
            It is left unchanged.
        selection: Elements to overwrite, such as `sample[3]`, `at[..., 3]` or
            `sample[...].where(X > 0.0)`.
        values: Array of shape `(num_values, ...)`. Each value broadcasts to the
            selection.
        path: Which of several inputs to edit, as in `edit.on(path)`. Defaults to None:
            there is one.
        batch_size: Number of rows per batch. Defaults to None: up to 4096, fewer if
            they are large.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line at the end.
            Defaults to 1.

    Returns:
        `kedit.studies.Sweep`, with `values`, `outputs`, `average` and `plot()`.

    Raises:
        kedit.errors.EditError: If the values or the selection do not fit the data.

    Gradient:
        None: the results are NumPy arrays.

    References:
        - Goldstein et al., 2015, "Peeking inside the black box: visualizing
          statistical learning with plots of individual conditional expectation".
        - Friedman, 2001, "Greedy function approximation: a gradient boosting
          machine": partial dependence.

    Example:
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2.0)])
    >>> found = kedit.studies.sweep(model, np.ones((4, 3)), kedit.sample[0], [5.0, 6.0], verbose=0)
    >>> found.outputs.shape, found.average.tolist()
    ((2, 4, 3), [[10.0, 2.0, 2.0], [12.0, 2.0, 2.0]])
    """
    check_model(model)
    values = np.asarray(values)
    if values.ndim == 0 or not len(values):
        raise OperandError(
            "`values` should be several, along the first axis. Received: an array of shape "
            f"{values.shape}. Write `[{values.item() if values.ndim == 0 else 0.0}]` for one."
        )
    edits = [edit_of(selection, value, path) for value in values]
    outputs = predict_edited(model, arrays(x), edits, batch_size, verbose)
    label = repr(selection) if path is None else f"{selection!r} of {path!r}"
    return Sweep(label, values, outputs)
