"""What an edit has to be for a source of data, whose batches have arbitrary rows."""

from typing import Any

from kedit._edit import check_is_edit
from kedit.errors import OperandError


def check_edit(what: str, edit: Any) -> None:
    """Refuse what is no edit of batches; `what` is given it."""
    check_is_edit(what, edit, "sample[2].set(0.0)")
    for part in edit.edits:
        part.selection.check_rows()
        if part.op == "get" or part.tensors():
            raise OperandError(
                f"{what} should be given edits by numbers, arrays and expressions. Received: "
                f"`{part!r}`. Write values as `keras.ops.convert_to_numpy(values)`; drop `.get()`."
            )
