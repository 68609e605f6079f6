"""The parts of an edit, as data."""

import sys

from kedit._language import constants, expression, index, items, selection, trainable

# Pickles of edits from earlier versions use the old names of these modules.
_RENAMED = {
    "_data": constants,
    "_expression": expression,
    "_index": index,
    "_items": items,
    "_selection": selection,
    "_trainable": trainable,
}
sys.modules.update({f"kedit.{name}": module for name, module in _RENAMED.items()})
