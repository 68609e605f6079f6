"""Losses that guide chosen elements of the output to a target."""

from kedit.losses._index_penalty import IndexPenalty
from kedit.losses._masked_loss import MaskedLoss
from kedit.losses._weighted_sum import WeightedSum

__all__ = ["IndexPenalty", "MaskedLoss", "WeightedSum"]
