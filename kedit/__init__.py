"""Edit any element of any tensor in Keras 3: functional, differentiable, one meaning everywhere.

>>> kedit.at(np.zeros((2, 3)))[0, 2].set(100.0).tolist()
[[0.0, 0.0, 100.0], [0.0, 0.0, 0.0]]
"""

try:
    import keras as _keras  # first, to report a missing backend clearly
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"`import keras` needs {missing.name}, which is not installed. kedit runs on TensorFlow, "
        'JAX and PyTorch: install one, as in `pip install "kedit[jax]"`, and name it before Python '
        "starts, as in `KERAS_BACKEND=jax python script.py`.",
        name=missing.name,
    ) from missing
if tuple(map(int, _keras.__version__.split(".")[:2])) < (3, 13):
    raise ImportError(
        f"kedit needs Keras 3.13 or later. Received: Keras {_keras.__version__}. Install a newer "
        "one: `pip install --upgrade keras`."
    )
if _keras.config.backend() not in ("tensorflow", "jax", "torch", "numpy"):
    raise ImportError(
        "kedit runs on TensorFlow, JAX and PyTorch, and without gradients on NumPy. Received: the "
        f"backend {_keras.config.backend()!r}. Name another one before Python starts, as in "
        "`KERAS_BACKEND=jax python script.py`."
    )

from kedit import (
    callbacks,
    constraints,
    errors,
    inputs,
    interventions,
    layers,
    losses,
    metrics,
    studies,
    testing,
    weights,
)
from kedit._at import at, sample
from kedit._draft import draft
from kedit._edit import Edit, EditSequence
from kedit._language.expression import X, position
from kedit._language.items import block, each
from kedit._language.pickling import publish as _publish
from kedit._language.pickling import unpickled as _unpickled  # noqa: F401
from kedit._language.trainable import Trainable

__all__ = [
    "at",
    "sample",
    "draft",
    "each",
    "block",
    "X",
    "position",
    "Edit",
    "EditSequence",
    "Trainable",
    "inputs",
    "layers",
    "losses",
    "metrics",
    "callbacks",
    "constraints",
    "weights",
    "interventions",
    "studies",
    "testing",
    "errors",
]
__version__ = "0.2.0"

_publish(__name__)
