"""Estimate by gradients what patching each activation would do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kedit._language.pickling import pickled
from kedit._run import ops
from kedit._show.plots import axes
from kedit.errors import OperandError
from kedit.interventions._capture import Gradients, batches_of, capture, rows_of
from kedit.interventions._patching_study import PatchingStudy
from kedit.interventions._points import activations, checked_targets, masks_of, measured, pairs
from kedit.interventions._site_map import SiteMap
from kedit.studies._batches import predict_on_batch, predicted
from kedit.studies._predict import length


@pickled
@dataclass(frozen=True, eq=False, repr=False)
class AttributionStudy(SiteMap):
    """Results of `attribution_study`.

    Attributes:
        sites: Names of the sites.
        positions: Names of the positions.
        effects: Array of shape `(num_sites, num_positions, num_samples)`: how much a
            patch is estimated to raise the metric.
        clean: Array of shape `(num_samples,)`: the metric for the clean inputs.
        corrupted: Array of the same shape: the metric for the corrupted inputs.
    """

    effects: Any
    clean: Any
    corrupted: Any

    shows, scale = "part of the difference recovered, estimated", 1.0

    @property
    def recovered(self) -> Any:
        """Estimated fraction that a patch recovers, as in `patching_study`."""
        return self.effects.mean(axis=2) / (np.mean(self.clean) - np.mean(self.corrupted))

    @property
    def shown(self) -> Any:
        """What the map shows: `recovered`."""
        return self.recovered

    def correlation(self, patching: PatchingStudy) -> float:
        """Return the correlation of the estimates with what the patches do.

        Args:
            patching: Result of `patching_study` with the same sites and positions.

        Returns:
            Pearson's correlation of both `recovered`, over sites and positions; NaN if
            one of them is the same everywhere.
        """
        same = (self.sites, self.positions) == (patching.sites, patching.positions)
        if not isinstance(patching, PatchingStudy) or not same:
            raise OperandError(
                "Studies that are compared should have the same sites and positions. Received: "
                f"{self.sites} and {patching.sites}, {self.positions} and {patching.positions}. "
                "Give `patching_study` the arguments of `attribution_study`."
            )
        one, other = [np.ravel(study.recovered) for study in (self, patching)]
        one, other = one - one.mean(), other - other.mean()
        spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
        return float((one * other).sum()) / spread if spread else float("nan")

    def plot_beside(self, patching: PatchingStudy, ax: Any = None) -> Any:
        """Draw the estimates beside what the patches do, a point for each site and position.

        Args:
            patching: As for `correlation`.
            ax: Matplotlib axes to draw on. Defaults to None: new axes.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        found = self.correlation(patching)
        (ax,) = axes(ax)
        for site, measured_, estimated in zip(
            self.sites, patching.recovered, self.recovered, strict=True
        ):
            ax.scatter(measured_, estimated, label=site, s=18)
        ends = [*np.ravel(patching.recovered), *np.ravel(self.recovered)]
        ax.axline((min(ends), min(ends)), slope=1, color="gray", linewidth=0.8, zorder=0)
        ax.set(xlabel="recovered by a patch", ylabel="estimated", title=f"correlation {found:.3f}")
        ax.legend()
        return ax


def attribution_study(
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
) -> AttributionStudy:
    """Estimate, for each activation, what patching it into corrupted runs would do.

    The estimate is of first order: the gradient of the metric with respect to the
    activation of the corrupted run, times the difference to the clean run, summed over
    the elements. A few runs give it for all sites and positions, where `patching_study`
    needs one for each. It is exact where the metric is linear in the activation, and can
    be far off where it saturates: compare both on a few sites with `correlation`.

    Args:
        model: Model of any kind; it is left unchanged.
        clean: As for `patching_study`.
        corrupted: As for `patching_study`.
        sites: As for `patching_study`. Activations must be floats.
        metric: Function that takes predictions, tensors of shape
            `(num_rows, *output_shape)`, and returns a number for each row; written with
            `keras.ops`, so that it has a gradient. Each number must depend on its own
            row only.
        targets: As for `patching_study`.
        positions: As for `patching_study`.
        axis: As for `patching_study`.
        batch_size: Number of samples per batch. Defaults to None: 32.
        verbose: As for `patching_study`.

    Returns:
        `AttributionStudy`, with `effects`, `recovered`, `correlation()`, `plot()` and
        `plot_beside()`.

    Raises:
        kedit.errors.EditError: If the sites, the positions or the inputs do not fit.

    Gradient:
        None: the results are NumPy arrays.

    References:
        N. Nanda, *Attribution Patching: Activation Patching At Industrial Scale*, 2023;
        A. Syed, C. Rager and A. Conmy, *Attribution Patching Outperforms Automated
        Circuit Discovery*, 2023, arXiv:2310.10348.

    Example:
    >>> model = keras.Sequential([keras.Input((3, 1)), keras.layers.Rescaling(2.0, name="h"),
    ...                           keras.layers.GlobalAveragePooling1D()])
    >>> found = kedit.interventions.attribution_study(
    ...     model, np.array([[[0.0], [3.0], [0.0]]]), np.zeros((1, 3, 1)), "h",
    ...     lambda y: y[:, 0], verbose=0)
    >>> found.recovered.tolist()
    [[0.0, 1.0, 0.0]]
    """
    clean, corrupted = pairs(clean, corrupted)
    targets = checked_targets(targets, length(corrupted))
    seen = activations(model, clean, sites)
    masks, labels = masks_of(seen, positions, axis)
    acts, model_of_gradients = capture(model, sites), None
    rows = length(corrupted)
    size = min(batch_size or 32, rows)
    numbers = batches_of(rows, size)
    bar = keras.utils.Progbar(len(numbers), verbose=verbose, unit_name="batch")
    effects, outputs = [], []
    for at in numbers:
        batches = [rows_of(x, at) for x in (clean, corrupted)]
        then, now = [predict_on_batch(acts, x) for x in batches]
        if model_of_gradients is None:
            model_of_gradients = Gradients(acts, now, metric, targets is not None)
        slopes = model_of_gradients.of_batch(batches[1], rows_of(targets, at))
        changes = {
            name: slopes[name] * (np.asarray(then[name], "float32") - np.asarray(x, "float32"))
            for name, x in now.items()
        }
        effects.append(
            [
                [_total(changes, str(site), mask) for mask in of_site]
                for (site, _), of_site in zip(seen, masks, strict=True)
            ]
        )
        outputs.append([predicted(acts.edited, x) for x in batches])
        bar.add(1)

    def of_tensors(*given: Any) -> Any:
        return metric(*keras.tree.map_structure(ops.convert_to_tensor, given))

    every = keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:rows], *outputs)
    before, after = [
        measured(of_tensors, keras.tree.map_structure(lambda y: y[None], each), targets)[0]
        for each in every
    ]
    names = [str(site) for site, _ in seen]
    return AttributionStudy(
        names, labels, np.concatenate(effects, axis=2)[..., :rows], before, after
    )


def _total(changes: dict[str, Any], site: str, mask: Any) -> Any:
    """Return the sum over the elements of a position in each call of a site, `(num_rows,)`."""
    # The name of the first call has no number, unless that call is a site of its own.
    calls = [
        x
        for name, x in changes.items()
        if name == site or (name.startswith(f"{site}#") and not name.endswith("#0"))
    ]
    return sum([np.where(mask, x, 0).reshape(len(x), -1).sum(axis=1) for x in calls])
