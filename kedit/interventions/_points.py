"""Predictions of an edited model for every example at every point of a study."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from kedit._at import sample
from kedit._run import ops
from kedit.errors import OperandError, ShapeError
from kedit.interventions._capture import batches_of, capture
from kedit.interventions._edited_model import EditedModel, edit_model
from kedit.interventions._operands import Fed
from kedit.interventions._site import Site
from kedit.studies._batches import predict_on_batch, predicted
from kedit.studies._predict import arrays, length, selected

_MOST_ROWS, _MOST_NUMBERS = 1024, 2**20


def pairs(clean: Any, corrupted: Any) -> tuple[Any, Any]:
    """Return clean and corrupted inputs as arrays, with as many samples each."""
    clean, corrupted = arrays(clean), arrays(corrupted)
    if length(clean) != length(corrupted):
        raise ShapeError(
            "`clean` and `corrupted` should have a pair of inputs for each sample. Received: "
            f"{length(clean)} and {length(corrupted)} samples. Write `clean[:count]` and "
            "`corrupted[:count]`."
        )
    return clean, corrupted


def activations(model: Any, x: Any, sites: Any) -> list[tuple[Site, Any]]:
    """Return sites of single layers, with their activations for the first example, `(1, ...)`."""
    found = capture(model, sites)
    seen = predict_on_batch(found, keras.tree.map_structure(lambda leaf: leaf[:1], x))
    return [(site, seen[str(site)]) for site in found.patterns]


def masks_of(
    seen: list[tuple[Site, Any]], positions: Any, axis: int | None
) -> tuple[list[list[Any]], list[str]]:
    """Return the masks of the positions of each site, and the names of the positions."""
    if positions is not None and axis is not None:
        raise OperandError(
            "Positions should be given by `positions` or `axis`, not both. Received: "
            f"positions={positions!r}, axis={axis!r}. Drop one of them."
        )
    masks = [_masks(site, activation, positions, axis) for site, activation in seen]
    counts = {len(of_site) for of_site in masks}
    if len(counts) != 1:
        shapes = {str(site): activation.shape[1:] for site, activation in seen}
        raise ShapeError(
            "Activations that are patched by position should have equally many positions. "
            f"Received: {shapes}. Study them apart, or give `positions`."
        )
    return masks, [repr(p) for p in positions] if positions else [str(n) for n in range(*counts)]


def _masks(site: Site, activation: Any, positions: Any, axis: int | None) -> list[Any]:
    """Return a mask of the elements of each position, which broadcasts to a sample."""
    if positions is not None:
        return [selected(position, activation)[0] for position in positions]
    rank = activation.ndim - 1
    if axis is None and rank < 2:
        return [np.ones((1,) * rank, bool)]
    return masks_along(1 if axis is None else axis, site, activation)


def masks_along(axis: int, site: Site, activation: Any) -> list[Any]:
    """Return a mask of the elements at each place of an axis, which broadcasts to a sample."""
    rank = activation.ndim
    if type(axis) is not int or not (1 <= axis < rank or -rank < axis < 0):
        raise OperandError(
            f"`axis` should be an axis of the activation, but not that of the batch: from 1 to "
            f"{rank - 1} or from {1 - rank} to -1. Received: axis={axis!r} at `{site}` of shape "
            f"{(None, *activation.shape[1:])}. Write, for example, `axis=-1`."
        )
    size = activation.shape[axis]
    shape = [1] * (rank - 1)
    shape[axis % rank - 1] = size
    return [row.reshape(shape) for row in np.eye(size, dtype=bool)]


def check_called_once(found: dict[str, Any], names: list[str]) -> None:
    """Raise if a site, of which one activation is wanted, has one for each of several calls."""
    if more := sorted(set(found) - set(names)):
        raise OperandError(
            "Each of these sites should be one call of a layer. Received: a layer that is called "
            f"several times, with {more} as well. Write `site({more[0].split('#')[0]!r}, call=0)`."
        )


def gating(sites: list[Site], operands: list[Any]) -> list[tuple[Site, Any]]:
    """Return edits that write operands at sites where the gate of the site is open."""
    return [
        (site, sample[...].where(Fed(f"gate_{number}") > 0).set(operand))
        for number, (site, operand) in enumerate(zip(sites, operands, strict=True))
    ]


def gated(model: Any, sites: list[Site], operands: list[Any]) -> EditedModel:
    """Return a model that writes operands at sites where the gate of the site is open."""
    return edit_model(model, gating(sites, operands))


def gates_of(masks: list[list[Any]]) -> list[Any]:
    """Make the gates of each site for all points, from the masks of its own points."""
    points = sum([len(of_site) for of_site in masks])
    gates, start = [], 0
    for of_site in masks:
        gate = np.zeros((points, *of_site[0].shape), "float32")
        gate[start : start + len(of_site)] = of_site
        start += len(of_site)
        gates.append(gate)
    return gates


def predict_points(
    model: Any,
    x: dict[str, Any],
    gates: Sequence[Any],
    batch_size: int | None,
    verbose: int,
) -> Any:
    """Return predictions at every point, `(num_points, num_samples, ...)`.

    Every batch has the same number of rows, so that the model is traced once.

    Args:
        model: What predicts on a batch: an edited model that takes a gate for each site.
        x: Its other inputs.
        gates: For each site, an array of shape `(num_points, ...)`.
        batch_size: Number of rows per batch, or None.
        verbose: As for `sweep`.
    """
    leaves = keras.tree.flatten(x)
    count, points = len(leaves[0]), len(gates[0])
    rows = points * count
    if batch_size is None:
        numbers = sum([leaf[0].size for leaf in [*leaves, *gates]])
        batch_size = min(_MOST_ROWS, max(1, _MOST_NUMBERS // max(1, numbers)))
    size = min(batch_size, rows)
    batches = batches_of(rows, size)
    bar = keras.utils.Progbar(len(batches), verbose=verbose, unit_name="batch")
    outputs = []
    for at in batches:
        batch = keras.tree.map_structure(lambda leaf, at=at: leaf[at % count], x)
        batch |= {f"gate_{number}": gate[at // count] for number, gate in enumerate(gates)}
        outputs.append(predicted(model, batch))
        bar.add(1)

    def join(*parts: Any) -> Any:
        every = np.concatenate(parts)[:rows]
        return every.reshape(points, count, *every.shape[1:])

    return keras.tree.map_structure(join, *outputs)


def checked_targets(targets: Any, count: int) -> Any:
    """Return the targets of the samples as arrays, or None."""
    if targets is None:
        return None
    targets = keras.tree.map_structure(np.asarray, targets)
    shapes = [leaf.shape for leaf in keras.tree.flatten(targets)]
    if any([shape[:1] != (count,) for shape in shapes]):
        raise ShapeError(
            f"`targets` should have an entry for each of {count} samples. Received: shapes "
            f"{shapes}. Write an array, as in `targets=np.array(answers)`."
        )
    return targets


def measured(metric: Callable[..., Any], outputs: Any, targets: Any = None) -> Any:
    """Return the metric of each prediction, `(num_points, num_samples)`."""
    first = keras.tree.flatten(outputs)[0]
    flat = [keras.tree.map_structure(lambda y: y.reshape(-1, *y.shape[2:]), outputs)]
    if targets is not None:
        repeated = np.tile(np.arange(first.shape[1]), first.shape[0])
        flat.append(keras.tree.map_structure(lambda y: y[repeated], targets))
    values = np.asarray(ops.convert_to_numpy(metric(*flat)))
    if values.shape != (first.shape[0] * first.shape[1],):
        raise OperandError(
            "`metric` should give one number for each prediction. Received: shape "
            f"{values.shape} for {first.shape[0] * first.shape[1]} predictions. Write, for "
            "example, `metric=lambda y: y[:, 0]`."
        )
    return values.reshape(first.shape[:2])
