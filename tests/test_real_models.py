"""Models that people have, with random weights: named, captured, edited, beside surgery on weights.

They take minutes, and KerasHub: `nox -s models`.
"""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close

from kedit import sample
from kedit.interventions import capture, edit_model, site, sites

pytestmark = [
    pytest.mark.models,
    # What Keras warns of in models that others made is theirs.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

APPLICATIONS = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
)
SMALL = {"vocabulary_size": 50, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 16}
HEADS = {"num_heads": 2}
GROUPED = {"num_query_heads": 2, "num_key_value_heads": 1}
HUB = {
    "Bert": {**SMALL, **HEADS, "max_sequence_length": 6},
    "GPT2": {**SMALL, **HEADS, "max_sequence_length": 6},
    "Gemma": {**SMALL, **GROUPED, "head_dim": 4},
    "Llama": {**SMALL, **GROUPED},
    "Mistral": {**SMALL, **GROUPED},
    "T5": {**SMALL, **HEADS},
    "ViT": {
        "image_shape": (16, 16, 3),
        "patch_size": (8, 8),
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "mlp_dim": 16,
    },
    "Whisper": {
        **SMALL,
        **HEADS,
        "num_mels": 8,
        "max_encoder_sequence_length": 12,
        "max_decoder_sequence_length": 6,
    },
}
RNG = np.random.default_rng(0)


def application(name):
    shape = (80, 80, 3)  # the least that InceptionV3 and Xception take is 75
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=shape, classes=5, classifier_activation=None)


def hub(name):
    import keras_hub

    return getattr(keras_hub.models, f"{name}Backbone")(**HUB[name])


def inputs_for(model):
    """Two examples of random numbers for each input of a model."""

    def one(name, spec):
        shape = (2, *[6 if n is None else n for n in spec.shape[1:]])
        if "mask" in name:
            return np.ones(shape, "int32")
        if "float" in spec.dtype:
            return RNG.normal(size=shape).astype("float32")
        return RNG.integers(0, 2 if "segment" in name else 50, shape).astype("int32")

    given = model.input
    if isinstance(given, dict):
        return {name: one(name, spec) for name, spec in given.items()}
    return one("images", given)


def randomized(model):
    """Give each kernel and bias numbers that keep what one unit does large enough to be seen."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if variable.path.endswith("bias"):
            variable.assign(rng.normal(scale=0.3, size=variable.shape))
    return model


@pytest.fixture(scope="module", params=[*APPLICATIONS, *HUB])
def real(request):
    name = request.param
    keras.utils.set_random_seed(0)
    model = randomized(application(name) if name in APPLICATIONS else hub(name))
    x = inputs_for(model)
    return model, x, predict(model, x)


def predict(model, x):
    return keras.tree.map_structure(to_numpy, model.predict_on_batch(x))


def outputs(found):
    return keras.tree.flatten(found)


def test_every_layer_can_be_named_as_it_is_printed(real):
    model, *_ = real
    found = sites(model)
    assert len({info.address for info in found}) == len(found) >= 20
    for info in found[:: 1 + len(found) // 40]:
        ((one, layer),) = site(info).find(model)
        assert type(layer).__name__ == info.layer
        assert str(one) == info.address
        ((_, same),) = site(info.address).find(model)
        ((_, itself),) = site(layer).find(model)
        assert same is layer
        assert itself is layer
    called = [info for info in found if info.calls]
    assert len(called) >= 0.8 * len(found)


def test_nothing_edited_is_nothing_changed(real):
    model, x, plain = real
    found = predict(edit_model(model, {}), x)
    for one, other in zip(outputs(found), outputs(plain), strict=True):
        check_close(one, other, rtol=1e-5, atol=1e-5)


def test_captures_are_what_a_model_up_to_there_gives(real):
    model, x, _ = real
    given = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    once = {info.name for info in sites(model) if info.calls == 1}
    given = [layer for layer in given if layer.name in once]
    given = [layer for layer in given if not isinstance(layer.output, (list, tuple, dict))]
    chosen = [given[len(given) * n // 5] for n in range(5)]
    found = predict(capture(model, chosen), x)
    names = [str(one) for one in capture(model, chosen).patterns]
    cut = keras.Model(model.input, {str(n): layer.output for n, layer in enumerate(chosen)})
    expected = predict(cut, x)
    for number, name in enumerate(names):
        check_close(found[name], expected[str(number)], rtol=1e-4, atol=1e-4)


def zeroable(model):
    """Layers whose unit is 0 where its weights are: linear ones, the last first."""
    kinds = (keras.layers.Conv2D, keras.layers.Dense, keras.layers.EinsumDense)
    for info in reversed(sites(model)):
        ((_, layer),) = site(info).find(model)
        is_linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
        if isinstance(layer, kinds) and is_linear and info.calls == 1:
            yield info.address, layer


def test_a_unit_set_to_zero_is_one_without_weights(real):
    """Beside the model with zeros in the kernel and bias of the unit; most change the outputs."""
    model, x, plain = real
    changed = []
    for address, layer in list(zeroable(model))[:4]:
        held = [to_numpy(w).copy() for w in layer.weights]
        unit = held[0].shape[-1] - 1
        edited = edit_model(model, {address: sample[..., unit].set(0.0)})
        found = predict(edited, x)
        for variable, values in zip(layer.weights, held, strict=True):
            without = values.copy()
            without[..., unit] = 0.0
            variable.assign(without)
        expected = predict(model, x)
        for variable, values in zip(layer.weights, held, strict=True):
            variable.assign(values)
        pairs = list(zip(outputs(found), outputs(expected), outputs(plain), strict=True))
        for one, other, _ in pairs:
            check_close(one, other, rtol=1e-4, atol=1e-4)
        changed.append(any(np.abs(one - base).max() > 1e-3 for one, _, base in pairs))
    assert any(changed)
    for one, other in zip(outputs(predict(model, x)), outputs(plain), strict=True):
        check_close(one, other, rtol=1e-5, atol=1e-5)
