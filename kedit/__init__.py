"""Edit any element of any tensor in Keras 3: functional, differentiable, one meaning everywhere.

>>> kedit.at(np.zeros((2, 3)))[0, 2].set(100.0).tolist()
[[0.0, 0.0, 100.0], [0.0, 0.0, 0.0]]
"""

from kedit import errors
from kedit._at import at, sample
from kedit._edit import Edit, EditSequence
from kedit._expression import X

__all__ = ["Edit", "EditSequence", "X", "at", "errors", "sample"]
__version__ = "0.1.0"
