"""Save the edits of a model to a file that others can apply to their models."""

import json
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from kedit._edit import Edit, EditSequence
from kedit._language.decoding import check_fields, loading, read_json
from kedit.errors import OperandError, SavingError
from kedit.interventions._edited_model import EditedModel
from kedit.interventions._site import Site


def save_edits(model: EditedModel, path: Any) -> None:
    """Write the edits of a model, with their learned values, to a JSON file.

    The file holds addresses, edits and their numbers, but no code and no weight of the
    underlying model. `load_edits` reads it.

    Args:
        model: Model made by `edit_model`.
        path: Path of the file.

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
    if any([layer.level and layer.runs for layer in model.edit_layers]):
        raise SavingError(
            "Edits that are saved alone should not read other runs of a model that is edited "
            "itself. Received: `OtherRun` in an edit of an edited model. Save the model: "
            "`edited.save('edited.keras')`."
        )
    edits = [
        {"site": site.get_config(), "edits": [part.get_config() for part in edit.edits]}
        for site, edit in model.edits
    ]
    _write(Path(path), json.dumps({"kedit_edits": edits}, indent=1, allow_nan=False))


def load_edits(path: Any) -> list[tuple[Site, Edit | EditSequence]]:
    """Read edits from a file that `save_edits` wrote, to pass them to `edit_model`.

    Args:
        path: Path of the file.

    Returns:
        A list of pairs of a site and an edit. No code is run.

    Raises:
        kedit.errors.SavingError: If the file holds something else.
    """
    try:
        data = read_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise SavingError(
            "A file should be one that `save_edits` wrote, whole and unchanged. Received: "
            f"{path}, {type(error).__name__}. Save the edits again."
        ) from error
    with loading("A file of edits", data):
        entries = check_fields("A file of edits", data, {"kedit_edits": list})["kedit_edits"]
        return [_entry(entry) for entry in entries]


def _entry(data: Any) -> tuple[Site, Edit | EditSequence]:
    fields = check_fields("An entry of a file of edits", data, {"site": dict, "edits": list})
    edits = [Edit.from_config(config) for config in fields["edits"]]
    site = Site.from_config(fields["site"])
    return site, edits[0] if len(edits) == 1 else EditSequence(*edits)


def _write(path: Path, text: str) -> None:
    """Write a file completely or not at all. An existing file stays until then."""
    path = path.resolve()  # replace the target of a link, not the link
    number, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(path))
        os.replace(name, path)
    except BaseException:  # including an interrupt
        with suppress(OSError):
            os.unlink(name)
        raise


def _mode(path: Path) -> int:
    """Return the permissions of the file: those it has, or those of any new file."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
