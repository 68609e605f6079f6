"""Read predictions out of what flows through a model, with its own last layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kedit._at import sample
from kedit._language.pickling import pickled
from kedit._run import ops
from kedit.errors import OperandError, ShapeError
from kedit.interventions._capture import batches_of, capture, rows_of
from kedit.interventions._edited_model import edit_model
from kedit.interventions._operands import Fed
from kedit.interventions._points import check_called_once, checked_targets
from kedit.interventions._site_map import SiteMap
from kedit.studies._batches import predict_on_batch, predicted
from kedit.studies._predict import arrays, length


@pickled
@dataclass(frozen=True, eq=False, repr=False)
class LogitLensStudy(SiteMap):
    """Results of `logit_lens_study`.

    Attributes:
        sites: Names of the sites.
        positions: Names of the positions, if the metric gives a number for each;
            otherwise one, "all".
        values: Array of shape `(num_sites, num_positions, num_samples)`: the metric of
            what is read out at each site.
        final: Array of shape `(num_positions, num_samples)`: the metric of the model.
    """

    values: Any
    final: Any

    shows = "metric read out, mean"

    @property
    def shown(self) -> Any:
        """Mean over the samples, `(num_sites, num_positions)`."""
        return self.values.mean(axis=2)


@pickled
@dataclass(frozen=True, eq=False, repr=False)
class DirectEffectStudy(SiteMap):
    """Results of `direct_effect_study`.

    Attributes:
        sites: Names of the sites.
        positions: Names of the positions, if the metric gives a number for each;
            otherwise one, "all".
        before: Array of shape `(num_positions, num_samples)`: the metric of the model.
        after: Array of shape `(num_sites, num_positions, num_samples)`: the metric
            without what the site adds directly.
    """

    before: Any
    after: Any

    shows = "direct effect on the metric, mean"

    @property
    def effects(self) -> Any:
        """How much the metric falls, `(num_sites, num_positions, num_samples)`."""
        return self.before - self.after

    @property
    def shown(self) -> Any:
        """Mean effect over the samples, `(num_sites, num_positions)`."""
        return self.effects.mean(axis=2)


def logit_lens_study(
    model: Any,
    x: Any,
    sites: Any,
    into: Any,
    metric: Callable[..., Any],
    *,
    targets: Any = None,
    batch_size: int | None = None,
    verbose: int = 1,
) -> LogitLensStudy:
    """Read predictions out of the residual stream after each layer: the logit lens.

    The activation at each site is handed on to `into` as if the layers between were not
    there, so that the model's own final norm and head turn it into predictions.

    Args:
        model: Model of any kind; it is left unchanged.
        x: Input of the model, of shape `(num_samples, *sample_shape)`, or a list or
            dict of inputs. Batches are collected: of a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a `DataLoader` or an iterator, without targets.
        sites: Site, address or pattern of addresses, or a list of these; see
            `kedit.interventions.site`. The activations must have the shape of that at
            `into`.
        into: Where the stream enters the last layers, such as
            `site("final_norm", "input")`.
        metric: Function that takes predictions, NumPy arrays of shape
            `(num_rows, *output_shape)`, and returns a number for each row, or an array
            of shape `(num_rows, num_positions)`, such as the probability of the right
            token at each position.
        targets: Array or structure of arrays with an entry for each sample, such as the
            right answers. The metric gets those of its rows as second argument. Defaults
            to None: it gets predictions only.
        batch_size: Number of samples per batch. Defaults to None: 32.
        verbose: 0 for silence, 1 for a progress bar, 2 for a line at the end.
            Defaults to 1.

    Returns:
        `LogitLensStudy`, with `values`, `final` and `plot()`.

    Raises:
        kedit.errors.EditError: If the sites or the inputs do not fit.

    Gradient:
        None: the results are NumPy arrays.

    References:
        nostalgebraist, *interpreting GPT: the logit lens*, 2020.

    Example:
    >>> inputs = x = keras.Input((2,))
    >>> for n in range(2):
    ...     x = x + keras.layers.Rescaling(1.0, name=f"block_{n}")(x)
    >>> model = keras.Model(inputs, keras.layers.Rescaling(10.0, name="head")(x))
    >>> found = kedit.interventions.logit_lens_study(
    ...     model, np.ones((1, 2)), [kedit.interventions.site("block_*", "input"),
    ...     kedit.interventions.site("head", "input")],
    ...     kedit.interventions.site("head", "input"), lambda y: y[:, 0], verbose=0)
    >>> found.shown[:, 0].tolist(), found.final.tolist()
    ([10.0, 20.0, 40.0], [[40.0]])
    """
    given = (model, x, sites, into, metric, targets, batch_size, verbose)
    names, labels, final, values = _read_out("set", *given)
    return LogitLensStudy(names, labels, values, final)


def direct_effect_study(
    model: Any,
    x: Any,
    sites: Any,
    into: Any,
    metric: Callable[..., Any],
    *,
    targets: Any = None,
    batch_size: int | None = None,
    verbose: int = 1,
) -> DirectEffectStudy:
    """Measure what each layer that writes to the residual stream adds to it directly.

    The activation at each site is subtracted from the stream where this enters `into`.
    Layers between do not see it; the model's own final norm and head do, so the norm is
    computed anew.

    Args:
        model: As for `logit_lens_study`.
        x: As for `logit_lens_study`.
        sites: As for `logit_lens_study`: layers whose outputs are added to the stream,
            such as `["*/attention", "*/mlp"]`.
        into: As for `logit_lens_study`.
        metric: As for `logit_lens_study`.
        targets: As for `logit_lens_study`.
        batch_size: As for `logit_lens_study`.
        verbose: As for `logit_lens_study`.

    Returns:
        `DirectEffectStudy`, with `before`, `after`, `effects` and `plot()`.

    Raises:
        kedit.errors.EditError: If the sites or the inputs do not fit.

    Gradient:
        None: the results are NumPy arrays.

    References:
        N. Elhage et al., *A Mathematical Framework for Transformer Circuits*, 2021.

    Example:
    >>> inputs = x = keras.Input((2,))
    >>> for n in range(2):
    ...     x = x + keras.layers.Rescaling(1.0, name=f"block_{n}")(x)
    >>> model = keras.Model(inputs, keras.layers.Rescaling(10.0, name="head")(x))
    >>> found = kedit.interventions.direct_effect_study(
    ...     model, np.ones((1, 2)), "block_*", kedit.interventions.site("head", "input"),
    ...     lambda y: y[:, 0], verbose=0)
    >>> found.shown[:, 0].tolist()
    [10.0, 20.0]
    """
    given = (model, x, sites, into, metric, targets, batch_size, verbose)
    names, labels, before, after = _read_out("subtract", *given)
    return DirectEffectStudy(names, labels, before, after)


def _read_out(
    op: str,
    model: Any,
    x: Any,
    sites: Any,
    into: Any,
    metric: Callable[..., Any],
    targets: Any,
    batch_size: int | None,
    verbose: int,
) -> tuple[list[str], list[str], Any, Any]:
    """Combine the activation of each site with that at `into`, by an operation.

    Returns:
        The names of the sites and of the positions; the metric of the model, of shape
        `(num_positions, num_samples)`; and that at each site, with one axis more.
    """
    x = arrays(x)
    rows = length(x)
    targets = checked_targets(targets, rows)
    place = _one(capture(model, into).patterns)
    chosen = capture(model, sites).patterns
    names = [str(one) for one in chosen]
    acts = capture(model, [*chosen, place])
    plain = edit_model(model, {})
    edited = edit_model(model, [(place, getattr(sample[...], op)(Fed("stream")))])
    batches = batches_of(rows, min(batch_size or 32, rows))
    bar = keras.utils.Progbar(len(batches) * len(names), verbose=verbose, unit_name="run")
    found: list[list[Any]] = []
    for at in batches:
        batch, answers = rows_of(x, at), rows_of(targets, at)
        seen = predict_on_batch(acts, batch)
        check_called_once(seen, [*names, str(place)])
        _check_same_shape(seen, str(place))
        found.append([_numbers(metric, predicted(plain, batch), answers, len(at))])
        for name in names:
            outputs = predicted(edited, {"inputs": batch, "stream": seen[name]})
            found[-1].append(_numbers(metric, outputs, answers, len(at)))
            bar.add(1)
    every = np.concatenate(found, axis=1)[:, :rows].swapaxes(1, 2)
    labels = ["all"] if every.shape[1] == 1 else [str(n) for n in range(every.shape[1])]
    return names, labels, every[0], every[1:]


def _one(found: list[Any]) -> Any:
    """Return the only site, or raise."""
    if len(found) != 1:
        raise OperandError(
            "`into` should be one site, where the stream enters the last layers. Received: "
            f"{[str(one) for one in found]}. Write `into=site('final_norm', 'input')`."
        )
    return found[0]


def _check_same_shape(seen: dict[str, Any], place: str) -> None:
    shapes = {name: tuple(x.shape[1:]) for name, x in seen.items()}
    if len(set(shapes.values())) != 1:
        raise ShapeError(
            f"Activations should have the shape of that at {place!r}, which they are put into. "
            f"Received: {shapes}. For others, such as the heads of attention, "
            "`path_patching_study` measures direct effects."
        )


def _numbers(metric: Callable[..., Any], outputs: Any, targets: Any, rows: int) -> Any:
    """Return the metric of each prediction, `(num_rows, num_positions)`."""
    given = [outputs] if targets is None else [outputs, targets]
    values = np.asarray(ops.convert_to_numpy(metric(*given)))
    if values.shape[:1] != (rows,) or values.ndim > 2:
        raise OperandError(
            "`metric` should give a number for each prediction, or one for each of its positions. "
            f"Received: shape {values.shape} for {rows} predictions. Write, for example, "
            "`metric=lambda y: y[:, :, 0]`."
        )
    return values.reshape(rows, -1)
