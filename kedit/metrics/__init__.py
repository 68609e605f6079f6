"""Metrics of how far chosen elements of the output are from their target."""

from kedit.metrics._index_violation import IndexViolation

__all__ = ["IndexViolation"]
