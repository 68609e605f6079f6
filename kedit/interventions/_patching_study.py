"""Find which activations carry the difference between two inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kedit._show import html
from kedit._show.code import outline
from kedit._show.plots import axes
from kedit.errors import ShapeError
from kedit.interventions._operands import OtherRun
from kedit.interventions._points import activations, gated, gates_of, measured, predict_points
from kedit.studies._predict import arrays, selected


@dataclass(frozen=True, eq=False)
class PatchingStudy:
    """Results of `patching_study`.

    Attributes:
        sites: Names of the sites.
        positions: Names of the positions.
        values: Array of shape `(num_sites, num_positions, num_samples)`: the metric
            for the corrupted inputs with one activation patched from the clean ones.
        clean: Array of shape `(num_samples,)`: the metric for the clean inputs.
        corrupted: Array of the same shape: the metric for the corrupted inputs, without
            patches.
    """

    sites: list[str]
    positions: list[str]
    values: Any
    clean: Any
    corrupted: Any

    @property
    def recovered(self) -> Any:
        """Fraction of the difference that a patch recovers, `(num_sites, num_positions)`.

        `(value - corrupted) / (clean - corrupted)`, with means over the samples: 0 where
        a patch has no effect, 1 where it recovers everything.
        """
        before, after = np.mean(self.corrupted), np.mean(self.clean)
        return (self.values.mean(axis=2) - before) / (after - before)

    def __repr__(self) -> str:
        return outline(self)

    def _repr_html_(self) -> str:
        """The recovered fractions in a notebook: a row for each site, a column for a position."""
        rows = [(site, *row) for site, row in zip(self.sites, self.recovered, strict=True)]
        title = "Part of the difference recovered, by site and position"
        return html.table(title, ("site", *self.positions), rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw the recovered fractions as a map of sites and positions.

        Args:
            ax: Matplotlib axes to draw on. Defaults to None: new axes.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        (ax,) = axes(ax)
        found = self.recovered
        most = max(1.0, np.abs(found).max())
        image = ax.imshow(found, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        ax.set_xticks(range(len(self.positions)), self.positions)
        ax.set_yticks(range(len(self.sites)), self.sites)
        ax.set(xlabel="position", ylabel="site")
        ax.figure.colorbar(image, ax=ax, label="part of the difference recovered")
        return ax


def patching_study(
    model: Any,
    clean: Any,
    corrupted: Any,
    sites: Any,
    metric: Callable[[Any], Any],
    *,
    positions: Any = None,
    batch_size: int | None = None,
    verbose: int = 1,
) -> PatchingStudy:
    """Patch each activation of corrupted runs in turn with its value from clean runs.

    All results are computed in batches, by one model that is traced once.

    Args:
        model: Model of any kind; it is left unchanged.
        clean: Input of the model, of shape `(num_samples, *sample_shape)`, or a list or
            dict of inputs.
        corrupted: Corrupted inputs, with the same shapes as `clean`.
        sites: Site, address or pattern of addresses, or a list of these; see
            `kedit.interventions.site`.
        metric: Function that takes predictions, NumPy arrays of shape
            `(num_rows, *output_shape)`, and returns a number for each row.
        positions: List of selections, such as `[sample[3], sample[4:6]]`. Defaults to
            None: each position on the first axis of a sample, or the whole activation
            if it has only one axis.
        batch_size: Number of rows per batch. Defaults to None: up to 1024, fewer if
            they hold more than 2**20 numbers.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line at the end.
            Defaults to 1.

    Returns:
        `PatchingStudy`, with `values`, `recovered` and `plot()`.

    Raises:
        kedit.errors.EditError: If the sites, the positions or the inputs do not fit.

    Gradient:
        None: the results are NumPy arrays.

    References:
        K. Meng, D. Bau, A. Andonian and Y. Belinkov, *Locating and Editing Factual
        Associations in GPT*, 2022, arXiv:2202.05262: causal tracing.

    Example:
    >>> model = keras.Sequential([keras.Input((3, 1)), keras.layers.Rescaling(2.0, name="h"),
    ...                           keras.layers.GlobalAveragePooling1D()])
    >>> found = kedit.interventions.patching_study(
    ...     model, np.array([[[0.0], [3.0], [0.0]]]), np.zeros((1, 3, 1)), "h",
    ...     lambda y: y[:, 0], verbose=0)
    >>> found.recovered.tolist()
    [[0.0, 1.0, 0.0]]
    """
    clean, corrupted = arrays(clean), arrays(corrupted)
    seen = activations(model, clean, sites)
    masks = [_masks(activation, positions) for _, activation in seen]
    counts = {len(of_site) for of_site in masks}
    if len(counts) != 1:
        shapes = {str(site): activation.shape[1:] for site, activation in seen}
        raise ShapeError(
            "Activations that are patched by position should have equally many positions. "
            f"Received: {shapes}. Study them apart, or give `positions`."
        )
    edited = gated(model, [site for site, _ in seen], [OtherRun()] * len(seen))
    gates = gates_of(masks)
    inputs = {"inputs": corrupted, "other": clean}
    outputs = predict_points(edited, inputs, gates, batch_size, verbose)
    none = [np.zeros_like(gate[:1]) for gate in gates]
    before, after = [
        measured(metric, predict_points(edited, {"inputs": x, "other": x}, none, batch_size, 0))[0]
        for x in (corrupted, clean)
    ]
    (count,) = counts
    labels = [repr(p) for p in positions] if positions else [str(n) for n in range(count)]
    values = measured(metric, outputs).reshape(len(seen), count, -1)
    return PatchingStudy([str(site) for site, _ in seen], labels, values, after, before)


def _masks(activation: Any, positions: Any) -> list[Any]:
    """Return a mask of the elements of each position, which broadcasts to a sample."""
    if positions is not None:
        return [selected(position, activation)[0] for position in positions]
    rank = activation.ndim - 1
    if rank < 2:
        return [np.ones((1,) * rank, bool)]
    length = activation.shape[1]
    return list(np.eye(length, dtype=bool).reshape(length, length, *[1] * (rank - 1)))
