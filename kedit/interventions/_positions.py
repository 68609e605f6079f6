"""Edit a piece of a sequence by positions that are counted in the whole sequence."""

from dataclasses import dataclass, replace
from typing import Any

from kedit import _run
from kedit._edit import Edit
from kedit._language.constants import Array
from kedit._language.expression import Expression
from kedit._language.index import Index
from kedit._language.items import Block, Each, Positions, Traced, axes_of
from kedit._language.selection import Selection, after_batch
from kedit._language.types import Shape, Tensor
from kedit._plan.bind import bind
from kedit._run import ops
from kedit.errors import PositionError, ShapeError

_ARRAYS = (Positions, Array, Traced, Each, Block)


@dataclass(frozen=True)
class Piece:
    """A piece of a sequence that is being generated.

    Attributes:
        start: Where it starts in the sequence: an integer tensor, or None if unknown.
        length: Its number of positions.
        axis: The axis that they are on.
    """

    start: Any = None
    length: int | None = None
    axis: int = 1


def apply_from(edit: Edit, x: Tensor, shape: Shape, piece: Piece | None) -> Tensor:
    """Apply an edit to a piece of a sequence.

    Args:
        edit: The edit, with tensors in place of its placeholders.
        x: Tensor of shape `(batch_size, length, ...)`.
        shape: Shape that the layer was built with.
        piece: Which piece it is; None for the whole sequence.
    """
    if piece is None:
        return _run.apply(edit, x, shape)
    edit = _in_sample(edit)
    selection = edit.selection
    if piece.axis == 2:
        _check_whole_queries(edit, x, piece)
        return _run.apply(edit, x, (shape[0], *x.shape[1:]))
    items = selection.index.items
    counts = _counts_along(edit, len(x.shape))
    names = selection.index.names_first_axis(len(x.shape) - 1)
    if piece.length not in (None, x.shape[1]):
        if items[0] is not ... or len(items) > 2 or counts:
            raise PositionError(
                "What is edited while a sequence is generated should have its positions on axis 1, "
                f"or be selected on the last axis alone. Received: `{selection!r}` of shape "
                f"{tuple(x.shape)}, where {piece.length} positions are generated. Take another."
            )
        names = False
    if not (names or counts):
        return _run.apply(edit, x, shape)
    if piece.start is None:
        raise PositionError(
            "Positions in a sequence that is generated should be at a layer that is told where in "
            "it the piece stands that it is given, or inside of one. Received: "
            f"`{selection!r}`. Edit the input of the layer that follows."
        )
    if counts:
        edit = _counted_from(edit, piece.start, len(x.shape))
        selection = edit.selection
    if not names:
        return _run.apply(edit, x, shape)
    items = items[1:] if items[0] is ... else items
    first, arrays = items[0], [isinstance(item, _ARRAYS) for item in items]
    if any(arrays[2:] if isinstance(first, int) else arrays[0:1]) and any(arrays[1:]):
        raise PositionError(
            "A position in a sequence that is generated should not be paired with others, or "
            f"stand apart from them. Received: `{selection!r}`. Write several edits."
        )
    length = x.shape[1]
    chosen = _chosen(first, ops.add(ops.arange(length), ops.cast(piece.start, "int32")), selection)
    rest = Index((slice(None), *items[1:]))
    everywhere = Selection("sample", rest, selection.condition)
    sizes = (None, *x.shape[1:])
    rank = len(bind(everywhere, sizes).result)
    edit = replace(edit, selection=everywhere, operand=_for_all(edit, first, rank))
    edited = _run.apply(edit, x, (*shape[:1], length, *shape[2:]))
    return ops.where(ops.reshape(chosen, (1, -1, *[1] * (len(x.shape) - 2))), edited, x)


def _check_whole_queries(edit: Edit, x: Tensor, piece: Piece) -> None:
    """Raise if an edit of attention picks queries of a piece; its keys are those of all."""
    items, rank = list(edit.selection.index.items), len(x.shape) - 1
    if ... in items:
        at = items.index(...)
        items[at : at + 1] = [slice(None)] * (rank - sum([axes_of(item) for item in items]))
    passed = 0
    while items and passed <= 1:
        item = items.pop(0)
        covered = range(passed, passed + axes_of(item))
        passed = covered.stop
        if 1 in covered and not (isinstance(item, slice) and item == slice(None)):
            break
    else:
        if not _counts_along(edit, len(x.shape), axis=1):
            return
    if isinstance(piece.start, int) and piece.start == 0 and piece.length == x.shape[2]:
        return
    raise PositionError(
        "Attention that is edited while a sequence is generated should be edited for all queries, "
        f"as they come in pieces. Received: `{edit.selection!r}`. Write `sample[head, :, key]`, or "
        "edit the heads: `site(layer, 'heads')`, where `sample[query, head]` counts in the whole "
        "sequence."
    )


def _in_sample(edit: Edit) -> Edit:
    """The edit, counted inside one sample."""
    operand = edit.operand
    if edit.selection.coordinates == "at" and isinstance(operand, Expression):
        operand = operand.with_positions(after_batch)
    return replace(edit, selection=edit.selection.inside_sample(), operand=operand)


def _counts_along(edit: Edit, rank: int, axis: int = 0) -> bool:
    """Whether a condition or an operand counts positions on an axis of a sample."""
    parts = (edit.selection.condition, edit.operand)
    found = [p for part in parts if isinstance(part, Expression) for p in part.parts("position")]
    return any([part.args[0] in (axis, axis + 1 - rank) for part in found])


def _counted_from(edit: Edit, start: Any, rank: int) -> Edit:
    """The edit with `start` added to positions in the sequence."""

    def from_start(part: Expression) -> Expression:
        moves = part.args[0] in (0, 1 - rank)
        return Expression("add", part, ops.cast(start, "int32")) if moves else part

    def moved(value: Any) -> Any:
        return value.with_positions(from_start) if isinstance(value, Expression) else value

    place = edit.selection
    selection = Selection(place.coordinates, place.index, moved(place.condition))
    return replace(edit, selection=selection, operand=moved(edit.operand))


def _chosen(item: Any, positions: Tensor, selection: Selection) -> Tensor:
    """Return which positions an item of an index selects."""
    if isinstance(item, int):
        numbers = [item]
    elif isinstance(item, Positions):
        numbers = list(item.numbers)
    elif isinstance(item, slice):
        numbers = [item.start or 0, item.stop or 0, item.step or 1]
    else:
        numbers = [-1]
    if min(numbers) < 0:
        raise PositionError(
            "A position in a sequence that is generated should be counted from its start, by an "
            f"int, a slice or a list, none of them negative. Received: `{selection!r}`."
        )
    if not isinstance(item, slice):
        places = ops.convert_to_tensor(numbers, dtype="int32")
        return ops.any(ops.equal(positions[:, None], places[None]), axis=1)
    start, stop, step = item.start or 0, item.stop, item.step or 1
    chosen = ops.logical_and(
        ops.greater_equal(positions, start), ops.equal((positions - start) % step, 0)
    )
    return chosen if stop is None else ops.logical_and(chosen, ops.less(positions, stop))


def _for_all(edit: Edit, item: Any, rank: int) -> Any:
    """Return the operand for a selection of all positions, with `rank` dimensions."""
    operand = edit.operand
    if isinstance(operand, Expression):
        return operand
    sizes = tuple(getattr(operand, "shape", ()))
    if isinstance(item, int):  # values have no axis for an int
        return ops.expand_dims(operand, 1) if len(sizes) == rank - 1 > 1 else operand
    at = len(sizes) - rank + 1
    if at >= 0 and sizes[at] != 1:
        raise ShapeError(
            "What is written while a sequence is generated should be the same at all positions. "
            f"Received: an operand of shape {sizes} in `{edit!r}`."
        )
    return operand
