"""Find which activations carry the difference between two inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kedit._language.pickling import pickled
from kedit.interventions._operands import OtherRun
from kedit.interventions._points import (
    activations,
    checked_targets,
    gated,
    gates_of,
    masks_of,
    measured,
    pairs,
    predict_points,
)
from kedit.interventions._site_map import SiteMap
from kedit.studies._predict import length


@pickled
@dataclass(frozen=True, eq=False, repr=False)
class PatchingStudy(SiteMap):
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

    values: Any
    clean: Any
    corrupted: Any

    shows, scale = "part of the difference recovered", 1.0

    @property
    def effects(self) -> Any:
        """How much a patch raises the metric, `(num_sites, num_positions, num_samples)`."""
        return self.values - self.corrupted

    @property
    def recovered(self) -> Any:
        """Fraction of the difference that a patch recovers, `(num_sites, num_positions)`.

        `(value - corrupted) / (clean - corrupted)`, with means over the samples: 0 where
        a patch has no effect, 1 where it recovers everything.
        """
        return self.effects.mean(axis=2) / (np.mean(self.clean) - np.mean(self.corrupted))

    @property
    def shown(self) -> Any:
        """What the map shows: `recovered`."""
        return self.recovered


def patching_study(
    model: Any,
    clean: Any,
    corrupted: Any,
    sites: Any,
    metric: Callable[..., Any],
    *,
    targets: Any = None,
    positions: Any = None,
    axis: int | None = None,
    batch_size: int | None = None,
    verbose: int = 1,
) -> PatchingStudy:
    """Patch each activation of corrupted runs in turn with its value from clean runs.

    All results are computed in batches, by one model that is traced once.

    Args:
        model: Model of any kind; it is left unchanged.
        clean: Input of the model, of shape `(num_samples, *sample_shape)`, or a list or
            dict of inputs. Batches are collected: of a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a `DataLoader` or an iterator, without targets.
        corrupted: Corrupted inputs, with the same shapes as `clean`.
        sites: Site, address or pattern of addresses, or a list of these; see
            `kedit.interventions.site`.
        metric: Function that takes predictions, NumPy arrays of shape
            `(num_rows, *output_shape)`, and returns a number for each row.
        targets: Array or structure of arrays with an entry for each sample, such as the
            right answers. The metric gets those of its rows as second argument. Defaults
            to None: it gets predictions only.
        positions: List of selections, such as `[sample[3], sample[4:6]]`. Defaults to
            None: each position on `axis`.
        axis: The axis of the activation with the positions; the batch axis is 0. At
            sites of "heads", `axis=-2` makes a study of layers and heads. Defaults to
            None: the first axis of a sample, or the whole activation if that is its
            only one.
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
    clean, corrupted = pairs(clean, corrupted)
    targets = checked_targets(targets, length(clean))
    seen = activations(model, clean, sites)
    masks, labels = masks_of(seen, positions, axis)
    edited = gated(model, [site for site, _ in seen], [OtherRun()] * len(seen))
    gates = gates_of(masks)
    inputs = {"inputs": corrupted, "other": clean}
    outputs = predict_points(edited, inputs, gates, batch_size, verbose)
    none = [np.zeros_like(gate[:1]) for gate in gates]
    before, after = [
        measured(metric, outputs_of_none, targets)[0]
        for outputs_of_none in [
            predict_points(edited, {"inputs": x, "other": x}, none, batch_size, 0)
            for x in (corrupted, clean)
        ]
    ]
    values = measured(metric, outputs, targets).reshape(len(seen), len(labels), -1)
    return PatchingStudy([str(site) for site, _ in seen], labels, values, after, before)
