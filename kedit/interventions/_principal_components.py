"""The directions in which activations vary most."""

from typing import Any

import numpy as np

from kedit.errors import OperandError, ShapeError
from kedit.studies._batches import widened


def principal_components(activations: Any, rank: int) -> Any:
    """Compute the directions in which activations vary most, as a basis for `Rotated`.

    With the rows `A` of the activations less their mean, and the singular value
    decomposition `A = U S V^T`, they are the first columns of `V`: orthonormal, by
    descending variance. Each has the sign that makes its entry of greatest absolute
    value positive.

    Args:
        activations: Array of shape `(num_samples, ..., features)`, such as `capture`
            predicts; all axes but the last count as samples.
        rank: Number of directions, at most the number of features and of samples.

    Returns:
        NumPy array of shape `(features, rank)` and the dtype of the activations, float32
        for integers and narrower floats.

    Raises:
        kedit.errors.OperandError: If `rank` is not a positive int, or an activation is
            not a finite real number.
        kedit.errors.ShapeError: If there are fewer features or samples than directions.

    Gradient:
        None: computed by NumPy.

    References:
        I. T. Jolliffe, *Principal Component Analysis*, 2nd edition, Springer, 2002,
        section 3.5, for the decomposition. The sign is that of scikit-learn's `PCA`.

    Example:
    >>> activations = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    >>> basis = kedit.interventions.principal_components(activations, rank=1)
    >>> basis.round(3).tolist()
    [[0.707], [0.707]]
    >>> kedit.interventions.Rotated(0.0, initializer=basis, trainable=False)
    Rotated(0.0, rank=1, initializer=..., trainable=False)
    """
    if type(rank) is not int or rank < 1:
        raise OperandError(f"`rank` should be a positive int. Received: rank={rank!r}.")
    given = widened(activations)
    if given.dtype.kind not in "biuf" or not np.isfinite(given).all():
        raise OperandError(
            "Activations should be finite real numbers. Received: an array of dtype "
            f"{given.dtype.name!r}{' with NaN or infinity' * (given.dtype.kind == 'f')}. Write "
            "`activations[np.isfinite(activations).all(axis=-1)]`."
        )
    shape = given.shape
    if len(shape) < 2 or rank > min(shape[-1], given.size // max(shape[-1], 1)):
        raise ShapeError(
            "Activations should be of shape (num_samples, ..., features), with as many samples and "
            f"features as directions. Received: shape {shape}, rank={rank}. Write `rank=1`, or "
            "capture more samples."
        )
    rows = given.reshape(-1, shape[-1]).astype("float64")
    *_, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    basis = directions[:rank].T
    greatest = np.take_along_axis(basis, abs(basis).argmax(axis=0)[None], axis=0)
    basis = np.where(greatest < 0, -basis, basis)
    return basis.astype(given.dtype if given.dtype == "float64" else "float32")
