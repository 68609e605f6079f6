"""Predictions of a model with each of its units ablated in turn."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kedit._language.pickling import pickled
from kedit._show import html
from kedit._show.code import outline
from kedit._show.plots import draw_map
from kedit.errors import OperandError
from kedit.interventions._capture import capture
from kedit.interventions._points import (
    activations,
    check_called_once,
    checked_targets,
    gated,
    gates_of,
    masks_along,
    measured,
    predict_points,
)
from kedit.studies._predict import arrays, length


@pickled
@dataclass(frozen=True, eq=False)
class AblationStudy:
    """Results of `ablation_study`.

    Attributes:
        units: Names of the units, `address[number]`.
        before: Array of shape `(num_samples,)`: the metric with all units.
        after: Array of shape `(num_units, num_samples)`: the metric without each unit.
    """

    units: list[str]
    before: Any
    after: Any

    @property
    def effects(self) -> Any:
        """How much ablating a unit lowers the metric, `(num_units, num_samples)`."""
        return self.before - self.after

    def by_group(self, groups: Any) -> Any:
        """Return the mean effect on the samples of each group, `(num_groups, num_units)`.

        Args:
            groups: The group number of each sample, such as its class.
        """
        groups = np.asarray(groups)
        if groups.shape != self.before.shape:
            raise OperandError(
                f"`groups` should have a number for each of {len(self.before)} samples. "
                f"Received: shape {groups.shape}."
            )
        return np.stack([self.effects[:, groups == g].mean(axis=1) for g in np.unique(groups)])

    @property
    def sites(self) -> list[str]:
        """Names of the sites, in the order of their units."""
        return list(self._counts())

    def _counts(self) -> dict[str, int]:
        """How many units each site has, by its name."""
        return dict(Counter([unit.rpartition("[")[0] for unit in self.units]))

    def by_site(self) -> Any:
        """Return the mean effect of each unit over the samples, `(num_sites, num_units)`.

        Raises:
            kedit.errors.OperandError: If the sites have different numbers of units.
        """
        counts = self._counts()
        if len(set(counts.values())) != 1:
            raise OperandError(
                "Sites should have equally many units to be compared unit by unit. Received: "
                f"{counts}. Use `effects`, whose rows are named by `units`."
            )
        return self.effects.mean(axis=1).reshape(len(counts), -1)

    def __repr__(self) -> str:
        return outline(self)

    def _repr_html_(self) -> str:
        """The effects in a notebook, with a row for each unit, the largest first."""
        means = self.effects.mean(axis=1)
        order = np.argsort(-np.abs(means), kind="stable")
        rows = [(self.units[number], means[number]) for number in order]
        title = f"Metric lost by ablation, mean of {len(self.before)} samples; largest first"
        return html.table(title, ("unit", "mean effect"), rows)

    def plot(self, groups: Any = None, ax: Any = None) -> Any:
        """Draw the mean effect of each unit.

        Sites with equally many units have a row each. With groups of samples, these have
        the rows, and the units of all sites stand side by side.

        Args:
            groups: As for `by_group`. Defaults to None: all samples are one group.
            ax: Matplotlib axes to draw on. Defaults to None: new axes.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        counts = self._counts()
        shows = "mean of the metric lost by ablation"
        by_site = groups is None and len(counts) > 1 and len(set(counts.values())) == 1
        groups = np.zeros(len(self.before), int) if groups is None else np.asarray(groups)
        found = self.by_site() if by_site else self.by_group(groups)
        ax = draw_map(found, np.abs(found).max() or 1.0, shows, ax)
        rows = counts if by_site else [str(group) for group in np.unique(groups)]
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set(xlabel="unit", ylabel="site" if by_site else "group")
        if by_site or len(counts) == 1:
            ax.xaxis.get_major_locator().set_params(integer=True)
            return ax
        ends = np.cumsum(list(counts.values()))
        for end in ends[:-1]:
            ax.axvline(end - 0.5, color="black", linewidth=0.8)
        ax.set_xticks(ends - np.array(list(counts.values())) / 2 - 0.5, list(counts))
        ax.tick_params(axis="x", length=0)
        ax.set(xlabel="units, by site")
        return ax


def ablation_study(
    model: Any,
    x: Any,
    sites: Any,
    metric: Callable[..., Any],
    *,
    targets: Any = None,
    baseline: float | str = 0.0,
    axis: int = -1,
    batch_size: int | None = None,
    verbose: int = 1,
) -> AblationStudy:
    """Overwrite each unit in turn, for all inputs, and measure the predictions.

    A unit is a position on one axis of an activation: a channel, a feature, or a head. All
    results are computed in batches, by one model that is traced once.

    Args:
        model: Model of any kind; it is left unchanged.
        x: Input of the model, of shape `(num_samples, *sample_shape)`, or a list or
            dict of inputs. Batches are collected: of a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a `DataLoader` or an iterator, without targets.
        sites: Site, address or pattern of addresses, or a list of these; see
            `kedit.interventions.site`.
        metric: Function that takes predictions, NumPy arrays of shape
            `(num_rows, *output_shape)`, and returns a number for each row.
        targets: Array or structure of arrays with an entry for each sample, such as the
            right answers. The metric gets those of its rows as second argument. Defaults
            to None: it gets predictions only.
        baseline: Value to write: a number, or "mean" for the mean of each activation
            over all of `x`. Defaults to 0.0.
        axis: The axis of the activation with the units; the batch axis is 0. At sites of
            "heads", `axis=-2` makes a study of layers and heads. Defaults to -1.
        batch_size: As for `patching_study`.
        verbose: As for `patching_study`.

    Returns:
        `AblationStudy`, with `before`, `after`, `effects`, `by_group()`, `by_site()` and
        `plot()`.

    Raises:
        kedit.errors.EditError: If the sites, the baseline or the inputs do not fit, or if
            the baseline is "mean" and a layer is called several times.

    Gradient:
        None: the results are NumPy arrays.

    Example:
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2.0, name="h")])
    >>> found = kedit.interventions.ablation_study(
    ...     model, np.ones((1, 3)), "h", lambda y: y[:, 1], verbose=0)
    >>> found.effects.tolist()
    [[0.0], [2.0], [0.0]]
    """
    x = arrays(x)
    targets = checked_targets(targets, length(x))
    if isinstance(baseline, str) and baseline != "mean":
        raise OperandError(
            f"`baseline` should be a number or 'mean'. Received: baseline={baseline!r}."
        )
    seen = activations(model, x, sites)
    operands: list[Any] = [baseline] * len(seen)
    if baseline == "mean":
        every = capture(model, sites).predict(x, batch_size=batch_size, verbose=0)
        check_called_once(every, [str(site) for site, _ in seen])
        operands = [_mean(every[str(site)]) for site, _ in seen]
    edited = gated(model, [site for site, _ in seen], operands)
    masks = [masks_along(axis, site, activation) for site, activation in seen]
    gates = gates_of(masks)
    outputs = predict_points(edited, {"inputs": x}, gates, batch_size, verbose)
    none = [np.zeros_like(gate[:1]) for gate in gates]
    before = predict_points(edited, {"inputs": x}, none, batch_size, 0)
    units = [
        f"{site}[{n}]"
        for (site, _), found in zip(seen, masks, strict=True)
        for n in range(len(found))
    ]
    after = measured(metric, outputs, targets)
    return AblationStudy(units, measured(metric, before, targets)[0], after)


def _mean(x: Any) -> Any:
    """Return the mean over the samples, summed in float64, as half precision stops adding up."""
    mean = np.mean(x, axis=0, dtype="float64")
    return mean if x.dtype == "float64" else mean.astype("float32")
