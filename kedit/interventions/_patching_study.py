"""Which activations carry what makes two inputs differ."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kedit.errors import ShapeError
from kedit.interventions._operands import OtherRun
from kedit.interventions._points import activations, gated, gates_of, measured, predict_points
from kedit.studies._plots import axes
from kedit.studies._predict import arrays, selected


@dataclass(frozen=True, eq=False)
class PatchingStudy:
    """What `patching_study` found.

    Attributes:
        sites: Names of the sites.
        positions: Names of the positions.
        values: Array of shape `(num_sites, num_positions, num_samples)`: the metric
            for the corrupted inputs with one activation patched from the clean ones.
        clean: Array of shape `(num_samples,)`: the metric without patches.
        corrupted: The same, for the corrupted inputs.
    """

    sites: list[str]
    positions: list[str]
    values: Any
    clean: Any
    corrupted: Any

    @property
    def recovered(self) -> Any:
        """Which part of the difference a patch recovers, `(num_sites, num_positions)`.

        `(value - corrupted) / (clean - corrupted)` of the means over the samples: 0 where
        a patch does nothing, 1 where it does all.
        """
        before, after = np.mean(self.corrupted), np.mean(self.clean)
        return (self.values.mean(axis=2) - before) / (after - before)

    def plot(self, ax: Any = None) -> Any:
        """Draw what is recovered, as a map of sites and positions.

        Args:
            ax: Axes of matplotlib. Defaults to None: new ones.

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
    """Patch one activation after the other of corrupted runs from clean ones.

    All points are computed by one model that is traced once, in batches.

    Args:
        model: Model of any kind; it is left as it is.
        clean: What the model takes, `(num_samples, *sample_shape)`, or several in a
            list or dict.
        corrupted: The same, of the same shapes.
        sites: Site, address or pattern of addresses, or a list of these; see
            `kedit.interventions.site`.
        metric: Given predictions as NumPy arrays, `(num_rows, *output_shape)`, a
            number for each.
        positions: List of selections, as `[sample[3], sample[4:6]]`. Defaults to
            None: each place on the first axis of a sample, or, where activations
            have only one axis, all of them at once.
        batch_size: Rows at a time. Defaults to None: as many as fit 2**20 numbers.
        verbose: 1 shows a progress bar, 0 none, 2 a line for each batch. Defaults
            to 1.

    Returns:
        `PatchingStudy`, with `values`, `recovered` and `plot()`.

    Raises:
        kedit.errors.EditError: If sites, positions or inputs do not fit.

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
    """Which elements of an activation belong to each position; they broadcast to a sample."""
    if positions is not None:
        return [selected(position, activation)[0] for position in positions]
    rank = activation.ndim - 1
    if rank < 2:
        return [np.ones((1,) * rank, bool)]
    length = activation.shape[1]
    return list(np.eye(length, dtype=bool).reshape(length, length, *[1] * (rank - 1)))
