"""Edits of a model as a file that others apply to theirs."""

import json
from pathlib import Path
from typing import Any

from kedit._edit import Edit, EditSequence
from kedit.errors import EditError, OperandError, SavingError
from kedit.interventions._edited_model import EditedModel
from kedit.interventions._site import Site


def save_edits(model: EditedModel, path: Any) -> None:
    """Write the edits of a model, with what they have learned, to a file of JSON.

    It holds addresses, edits and their numbers: no code, and no weight of the model
    underneath. `load_edits` reads it.

    Args:
        model: What `edit_model` made.
        path: Of the file.

    Raises:
        kedit.errors.SavingError: If an edit holds a tensor, or a function that is
            not registered with Keras.

    Example:
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
    >>> edited = kedit.interventions.edit_model(base, {"h": kedit.sample[0].set(0.0)})
    >>> path = os.path.join(tempfile.mkdtemp(), "edits.json")
    >>> kedit.interventions.save_edits(edited, path)
    >>> again = kedit.interventions.edit_model(base, kedit.interventions.load_edits(path))
    >>> again.edits == edited.edits
    True
    """
    if not isinstance(model, EditedModel):
        raise OperandError(
            "Edits should be those of a model that `edit_model` made. Received: "
            f"{model!r} of type {type(model).__name__}."
        )
    edits = [
        {"site": site.get_config(), "edits": [part.get_config() for part in edit.edits]}
        for site, edit in model.edits
    ]
    Path(path).write_text(json.dumps({"kedit_edits": edits}, indent=1), encoding="utf-8")


def load_edits(path: Any) -> list[tuple[Site, Edit | EditSequence]]:
    """Read the edits of a file that `save_edits` wrote, to give them to `edit_model`.

    Args:
        path: Of the file.

    Returns:
        A list of pairs of a site and an edit. No code is run.

    Raises:
        kedit.errors.SavingError: If the file holds something else.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))["kedit_edits"]
        return [(Site(**entry["site"], is_found=True), _joined(entry["edits"])) for entry in data]
    except EditError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SavingError(
            f"A file should be one that `save_edits` wrote. Received: {path}."
        ) from error


def _joined(configs: list[dict[str, Any]]) -> Edit | EditSequence:
    edits = [Edit.from_config(config) for config in configs]
    return edits[0] if len(edits) == 1 else EditSequence(*edits)
