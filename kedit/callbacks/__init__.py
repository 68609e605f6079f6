"""Callbacks that update the weights of a guide while a model trains."""

from kedit.callbacks._dual_ascent import DualAscent
from kedit.callbacks._penalty_schedule import PenaltySchedule

__all__ = ["DualAscent", "PenaltySchedule"]
