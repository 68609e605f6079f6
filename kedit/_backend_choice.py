"""Which backend `python -m kedit` runs on, if nobody said.

Keras fixes its backend when it is imported, and takes TensorFlow where nothing
else is said, installed or not. A program may choose better; a library must not:
`import kedit` leaves the choice to Keras.
"""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")  # those that train; Keras's default first


def is_starting() -> bool:
    """Whether the package is being imported because of `python -m kedit`."""
    # While Python looks for the module, "-m" stands in for it, in front of its arguments.
    return sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == "kedit"


def choose() -> None:
    """Set KERAS_BACKEND to a backend that is installed; leave it, if it names one."""
    said = os.environ.get("KERAS_BACKEND")
    if said and not is_installed(said):
        sys.exit(f"KERAS_BACKEND should be an installed backend. Received: {said!r}. {_advice()}")
    candidates = [said] if said else [_configured(), *BACKENDS]
    for backend in candidates:
        if backend and is_installed(backend):
            os.environ["KERAS_BACKEND"] = backend
            return
    sys.exit(f"`python -m kedit` needs a backend of Keras, and found none. {_advice()}")


def is_installed(backend: str) -> bool:
    """Whether the backend's package can be imported; it is not imported."""
    spec = find_spec(backend)
    return spec is not None and spec.origin is not None  # a mere folder has no origin


def _configured() -> str | None:
    """The backend in Keras's configuration file, if there is one."""
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        backend = json.loads((folder / "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError):
        return None
    return str(backend)


def _advice() -> str:
    return "Install one: " + ", or ".join(f'pip install "kedit[{name}]"' for name in BACKENDS)
