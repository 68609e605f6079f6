"""Studies of what any Keras model would predict if its inputs were different.

Each study takes a selection to edit, like `sample[3]` or `at[..., 3]`, runs the model
on edited copies of the data in large batches, and returns arrays with a `plot()` method.
"""

from kedit.studies._ablate import Ablation, ablate
from kedit.studies._counterfactual import Counterfactual, counterfactual
from kedit.studies._sweep import Sweep, sweep

__all__ = ["sweep", "ablate", "counterfactual", "Sweep", "Ablation", "Counterfactual"]
