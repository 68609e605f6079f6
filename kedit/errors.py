"""Errors that kedit raises; each is also a built-in error that a user would catch."""


class EditError(Exception):
    """Base of every error that kedit raises."""

    # TensorFlow's AutoGraph raises errors from a graph again, with its own traceback. It keeps the
    # class only of errors with the `__init__` of `Exception`.
    __init__ = Exception.__init__


class PositionError(EditError, IndexError):
    """An index does not fit: out of bounds, too many axes, or not integers."""


class SliceError(PositionError, TypeError):
    """A slice has a start, stop or step that is not an integer."""


class ShapeError(EditError, ValueError):
    """Values, a mask or a condition do not broadcast to the selection."""


class BroadcastError(ShapeError, PositionError):
    """Index arrays do not broadcast to one another."""


class DTypeError(EditError, TypeError):
    """A value or an operation would lose information in the tensor's dtype."""


class CoordinateError(EditError, ValueError):
    """An edit names rows of the batch where rows are arbitrary."""


class OperandError(EditError, TypeError):
    """An edit was given something that it cannot work with."""


class OperationError(EditError, AttributeError):
    """An operation that does not exist, or that stands where an index should."""


class SavingError(EditError, TypeError):
    """An edit holds something that cannot be written as data."""
