"""Find which activations act on the predictions through which others."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kedit._at import sample
from kedit.interventions._capture import capture
from kedit.interventions._edited_model import edit_model
from kedit.interventions._operands import Fed, OtherRun
from kedit.interventions._patching_study import PatchingStudy
from kedit.interventions._points import (
    activations,
    check_called_once,
    checked_targets,
    gates_of,
    gating,
    masks_of,
    measured,
    pairs,
    predict_points,
)
from kedit.interventions._site import Site
from kedit.studies._batches import predict_on_batch
from kedit.studies._predict import length


def path_patching_study(
    model: Any,
    clean: Any,
    corrupted: Any,
    senders: Any,
    metric: Callable[..., Any],
    *,
    receivers: Any = None,
    frozen: Any = None,
    targets: Any = None,
    positions: Any = None,
    axis: int | None = None,
    batch_size: int | None = None,
    verbose: int = 1,
) -> PatchingStudy:
    """Patch each activation of corrupted runs, and let only chosen receivers see the patch.

    Where `patching_study` measures everything that a patch changes, this measures one
    path. For each sender and position, a first run of the model on the corrupted inputs
    has the clean activation there, while all `frozen` sites keep their values from the
    corrupted run. A second run on the corrupted inputs gets at the receivers what these
    were in the first run, and its predictions are measured.

    Args:
        model: Model of any kind; it is left unchanged.
        clean: As for `patching_study`.
        corrupted: As for `patching_study`.
        senders: Sites that are patched, one position at a time; as `sites` of
            `patching_study`.
        metric: As for `patching_study`.
        receivers: Site, or list of sites, that see the patch, such as
            `site("block_1/attention", "input")`. Defaults to None: the outputs of the
            model, which is the direct effect of the senders if all else is frozen.
        frozen: Site, or list of sites, that do not see the patch; senders and receivers
            may be among them. Freeze each layer that writes to the residual stream
            between senders and receivers to keep the direct path alone. Defaults to
            None: nothing is frozen.
        targets: As for `patching_study`.
        positions: As for `patching_study`.
        axis: As for `patching_study`.
        batch_size: As for `patching_study`.
        verbose: As for `patching_study`.

    Returns:
        `PatchingStudy`, with a row for each sender.

    Raises:
        kedit.errors.EditError: If the sites, the positions or the inputs do not fit, or
            if a receiver is called several times.

    Gradient:
        None: the results are NumPy arrays.

    References:
        K. Wang, A. Variengien, A. Conmy, B. Shlegeris and J. Steinhardt,
        *Interpretability in the Wild: a Circuit for Indirect Object Identification in
        GPT-2 small*, 2022, arXiv:2211.00593; N. Goldowsky-Dill, C. MacLeod, L. Sato and
        A. Arora, *Localizing Model Behavior with Path Patching*, 2023, arXiv:2304.05969.

    Example:
    >>> inputs = keras.Input((1,))
    >>> a = keras.layers.Rescaling(2.0, name="a")(inputs)
    >>> b = keras.layers.Rescaling(3.0, name="b")(a)
    >>> model = keras.Model(inputs, a + b)
    >>> given = (model, np.array([[1.0]]), np.array([[0.0]]), "a", lambda y: y[:, 0])
    >>> kedit.interventions.path_patching_study(*given, frozen="b", verbose=0).effects.tolist()
    [[[2.0]]]
    >>> kedit.interventions.path_patching_study(*given, receivers="b", verbose=0).effects.tolist()
    [[[6.0]]]
    """
    clean, corrupted = pairs(clean, corrupted)
    targets = checked_targets(targets, length(clean))
    seen = activations(model, clean, senders)
    masks, labels = masks_of(seen, positions, axis)
    received = capture(model, [] if receivers is None else receivers).patterns
    kept = [one for one in capture(model, frozen or []).patterns if one not in received]
    freezing = [(one, sample[...].set(OtherRun("corrupted"))) for one in kept]
    patching = gating([site for site, _ in seen], [OtherRun("clean")] * len(seen))
    first = edit_model(model, [*freezing, *patching])
    run = _Paths(model, first, received) if received else first
    inputs = {"inputs": corrupted, "clean": clean} | ({"corrupted": corrupted} if kept else {})
    gates = gates_of(masks)
    outputs = predict_points(run, inputs, gates, batch_size, verbose)
    none = [np.zeros_like(gate[:1]) for gate in gates]
    before, after = [
        measured(
            metric, predict_points(first, dict.fromkeys(inputs, x), none, batch_size, 0), targets
        )[0]
        for x in (corrupted, clean)
    ]
    values = measured(metric, outputs, targets).reshape(len(seen), len(labels), -1)
    return PatchingStudy([str(site) for site, _ in seen], labels, values, after, before)


class _Paths:
    """Two runs: one in which receivers see a patch, and one in which nothing else does."""

    def __init__(self, model: Any, first: Any, receivers: list[Site]) -> None:
        self.first = capture(first, receivers)
        self.names = [str(one) for one in receivers]
        edits = [(one, sample[...].set(Fed(_fed(n)))) for n, one in enumerate(receivers)]
        self.second = edit_model(model, edits)

    def predict_on_batch(self, batch: dict[str, Any]) -> Any:
        found = predict_on_batch(self.first, batch)
        check_called_once(found, self.names)
        fed = {_fed(n): found[name] for n, name in enumerate(self.names)}
        return predict_on_batch(self.second, {"inputs": batch["inputs"], **fed})


def _fed(number: int) -> str:
    return f"receiver_{number}"
