"""What a model would have predicted: studies of its inputs, on any Keras model.

Each takes the selection that is to be edited, `sample[3]` or `at[..., 3]`, runs the
model on edited copies of the data in large batches, and returns arrays that can
plot themselves.
"""

from kedit.studies._ablate import Ablation, ablate
from kedit.studies._counterfactual import Counterfactual, counterfactual
from kedit.studies._sweep import Sweep, sweep

__all__ = ["sweep", "ablate", "counterfactual", "Sweep", "Ablation", "Counterfactual"]
