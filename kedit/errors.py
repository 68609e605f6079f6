"""Errors that kedit raises; each is also the built-in a user would catch."""


class EditError(Exception):
    """Base of every error that kedit raises."""

    # TensorFlow's AutoGraph raises anew, with its own traceback, what was raised in a graph; it
    # keeps the class of those that are made just as `Exception` is.
    __init__ = Exception.__init__


class PositionError(EditError, IndexError):
    """An index does not fit: out of bounds, too many axes, not integers."""


class SliceError(PositionError, TypeError):
    """A slice has a start, a stop or a step that is no integer."""


class ShapeError(EditError, ValueError):
    """Values, a mask or a condition do not broadcast to what is selected."""


class BroadcastError(ShapeError, PositionError):
    """Index arrays do not broadcast to one another."""


class DTypeError(EditError, TypeError):
    """A value or an operation would lose information in the tensor's dtype."""


class CoordinateError(EditError, ValueError):
    """An edit names rows of the batch where rows are arbitrary."""


class OperandError(EditError, TypeError):
    """An edit was given something that it cannot work with."""


class SavingError(EditError, TypeError):
    """An edit holds something that cannot be written as data."""
