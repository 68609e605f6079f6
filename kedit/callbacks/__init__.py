"""Callbacks that update the weights of a guide, or prune, while a model trains."""

from kedit.callbacks._dual_ascent import DualAscent
from kedit.callbacks._penalty_schedule import PenaltySchedule
from kedit.callbacks._pruning_schedule import PruningSchedule

__all__ = ["DualAscent", "PenaltySchedule", "PruningSchedule"]
