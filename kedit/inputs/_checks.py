"""Check that an edit can be applied to batches, whose rows are arbitrary."""

from typing import Any

from kedit._edit import check_is_edit
from kedit.errors import OperandError


def check_edit(what: str, edit: Any) -> None:
    """Raise if `edit` cannot edit batches; `what` names its receiver in the message."""
    check_is_edit(what, edit, "sample[2].set(0.0)")
    for part in edit.edits:
        part.check_rows()
        if part.op == "get" or part.tensors():
            raise OperandError(
                f"{what} should be given edits by numbers, arrays and expressions. Received: "
                f"`{part!r}`. Write values as `keras.ops.convert_to_numpy(values)`; drop `.get()`."
            )
