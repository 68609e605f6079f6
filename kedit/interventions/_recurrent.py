"""What can be done inside recurrent layers, where backends differ."""

from collections.abc import Sequence
from typing import Any

import keras

from kedit._addresses import addresses
from kedit.errors import OperandError
from kedit.interventions._run import owners_of
from kedit.interventions._site import Site
from kedit.interventions._sites import is_looped


def check_recurrent(base: Any, sites: list[Site], reads: Sequence[bool]) -> None:
    """Raise if a site inside a recurrent layer means something else on each backend.

    Args:
        base: The model.
        sites: Sites that were found in it.
        reads: For each site, whether its activation leaves the recurrent layer.
    """
    table = addresses(base)
    for site, is_read in zip(sites, reads, strict=True):
        for owner in owners_of(table, [site]):
            if isinstance(owner, (keras.layers.LSTM, keras.layers.GRU)):
                _check_not_fused(owner, site)
            if is_read or site.call is not None:
                _check_called_once_a_step(owner, site)


def _check_not_fused(owner: Any, site: Site) -> None:
    """Raise if a layer may run as one operation, which depends on the backend and the device."""
    if owner.use_cudnn is not False:
        raise OperandError(
            f"A {type(owner).__name__} whose cell is edited should compute step by step. "
            f"Received: {owner.name!r} with use_cudnn={owner.use_cudnn!r}, and site "
            f"`{site}`. Make it with `use_cudnn=False`."
        )


def _check_called_once_a_step(owner: Any, site: Site) -> None:
    kind = type(owner).__name__
    if is_looped(owner):
        what, fix = "unroll=False", f"make the layer with `{kind}(..., unroll=True)`"
    elif isinstance(owner, keras.layers.StackedRNNCells):
        what, fix = "several cells", "make a recurrent layer for each cell"
    else:
        return
    raise OperandError(
        "A layer whose calls are told apart should be called once a step, which backends do "
        f"not do inside a recurrent layer. Received: `{site}` inside {owner.name!r}, a {kind} with "
        f"{what}. Take the output of the recurrent layer, where `sample[2]` is step 2 if it has "
        f"`return_sequences=True`; or {fix}."
    )
