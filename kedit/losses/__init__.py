"""Losses that guide chosen elements of the output to a target."""

from kedit.losses._index_penalty import IndexPenalty

__all__ = ["IndexPenalty"]
