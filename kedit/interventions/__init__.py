"""Edit activations and weights inside an existing model."""

from kedit.interventions._ablation_study import ablation_study
from kedit.interventions._attribution_study import attribution_study
from kedit.interventions._capture import Capture, capture
from kedit.interventions._edited_model import EditedModel, edit_model
from kedit.interventions._layer_input import LayerInput
from kedit.interventions._noise import Noise
from kedit.interventions._on_disk import Activations
from kedit.interventions._operands import BatchMean, Fed, OtherRun
from kedit.interventions._patching_study import patching_study
from kedit.interventions._path_patching_study import path_patching_study
from kedit.interventions._principal_components import principal_components
from kedit.interventions._readout_studies import direct_effect_study, logit_lens_study
from kedit.interventions._rotated import Rotated
from kedit.interventions._sharing import load_edits, save_edits
from kedit.interventions._site import site
from kedit.interventions._sites import sites
from kedit.interventions._through import Through
from kedit.weights import WeightEditing, edit_weights, freeze_elements, prune, remove_channels

__all__ = [
    "Activations",
    "BatchMean",
    "Capture",
    "EditedModel",
    "Fed",
    "LayerInput",
    "Noise",
    "OtherRun",
    "Rotated",
    "Through",
    "WeightEditing",
    "ablation_study",
    "attribution_study",
    "capture",
    "direct_effect_study",
    "edit_model",
    "edit_weights",
    "freeze_elements",
    "load_edits",
    "logit_lens_study",
    "patching_study",
    "path_patching_study",
    "principal_components",
    "prune",
    "remove_channels",
    "save_edits",
    "site",
    "sites",
]
