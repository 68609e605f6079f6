"""The gradient of a layer is chosen: in closed form, eager and compiled; no value changes."""

import itertools

import keras
import numpy as np
import pytest
from _backend import compiled, to_numpy, vjp
from keras import ops
from kit import check_close

from kedit import Trainable, X, at, sample
from kedit.errors import DTypeError, OperandError
from kedit.layers import ConditionalModifier, Editing

RNG = np.random.default_rng(7)
DATA = RNG.normal(scale=2.0, size=(5, 6)).astype("float32")
UPSTREAM = RNG.normal(size=(5, 6)).astype("float32")


def gradients(layers, x, compile, upstream=UPSTREAM):
    """For each layer its value, and the gradients of input and weights; compiled all at once."""
    weights, rest = [], []
    for layer in layers:
        layer.build((None, *x.shape[1:]))
        weights.append([to_numpy(weight) for weight in layer.trainable_weights])
        rest.append([ops.convert_to_tensor(weight) for weight in layer.non_trainable_weights])
    ends = [0, *itertools.accumulate(1 + len(given) for given in weights)]
    spans = list(itertools.pairwise(ends))

    def call(*given):
        parts = [given[start:end] for start, end in spans]
        outputs = [
            layer.stateless_call(list(part[1:]), fixed, part[0])[0]
            for layer, part, fixed in zip(layers, parts, rest, strict=True)
        ]
        return ops.stack(outputs)

    primals = [value for given in weights for value in (x, *given)]
    values, found = vjp(call, primals, np.stack([upstream] * len(layers)), compile=compile)
    parts = [found[start:end] for start, end in spans]
    return [(value, part[0], part[1:]) for value, part in zip(values, parts, strict=True)]


def sigmoid_slope(distance, temperature):
    s = 1 / (1 + np.exp(-distance.astype("float64") / temperature))
    return s * (1 - s) / temperature


both = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


@pytest.mark.gradient
@both
def test_straight_through(compile):
    edit = sample[1:3].multiply(Trainable(0.5)) | at.where(X > 1.0).set(Trainable(3.0))
    layer = Editing(edit, gradient="straight_through")
    ((value, dx, (factor, put)),) = gradients([layer], DATA, compile)
    scaled = DATA.copy()
    scaled[:, 1:3] *= 0.5
    above = scaled > 1
    check_close(value, np.where(above, 3, scaled))
    np.testing.assert_array_equal(dx, UPSTREAM)
    check_close(put, UPSTREAM[above].sum())
    # The second edit is the identity for the first, as it is for the input.
    check_close(factor, (UPSTREAM * DATA)[:, 1:3].sum())


@pytest.mark.gradient
@both
def test_blocked(compile):
    edit = sample[[4, 1]].multiply(Trainable(0.5)) | at[..., 3:].where(X > 0).add(Trainable(1.0))
    layer = Editing(edit, gradient="blocked")
    ((value, dx, (factor, added)),) = gradients([layer], DATA, compile)
    expected = DATA.copy()
    expected[:, [4, 1]] *= 0.5
    above = np.zeros(DATA.shape, bool)
    above[:, 3:] = expected[:, 3:] > 0
    check_close(value, expected + above)
    chosen = above.copy()
    chosen[:, [4, 1]] = True
    check_close(dx, np.where(chosen, 0, UPSTREAM))
    check_close(added, UPSTREAM[above].sum())
    check_close(factor, ((UPSTREAM * DATA) * ~above)[:, [4, 1]].sum())


SURROGATES = {
    "above": (X > Trainable(0.5), lambda x: x > 0.5, lambda x, k: (k(x - 0.5), -k(x - 0.5))),
    "not below": (X >= Trainable(0.5), lambda x: x >= 0.5, lambda x, k: (k(x - 0.5), -k(x - 0.5))),
    "below": (X < Trainable(0.5), lambda x: x < 0.5, lambda x, k: (-k(0.5 - x), k(0.5 - x))),
    "at most": (Trainable(0.5) >= X, lambda x: x <= 0.5, lambda x, k: (-k(0.5 - x), k(0.5 - x))),
    "dead zone": (
        abs(X) < Trainable(0.5),
        lambda x: abs(x) < 0.5,
        lambda x, k: (-np.sign(x) * k(0.5 - abs(x)), k(0.5 - abs(x))),
    ),
    "and": (
        (X > Trainable(0.5)) & (X < 2.0),
        lambda x: (x > 0.5) & (x < 2),
        lambda x, k: ((x < 2) * k(x - 0.5) - (x > 0.5) * k(2 - x), (x < 2) * -k(x - 0.5)),
    ),
    "or": (
        (X < Trainable(0.5)) | ((X > 2.0) | X.isnan()),
        lambda x: (x < 0.5) | (x > 2),
        lambda x, k: (
            (x <= 2) * -k(0.5 - x) + (x >= 0.5) * k(x - 2),
            (x <= 2) * k(0.5 - x),
        ),
    ),
    "not": (~(X > Trainable(0.5)), lambda x: x <= 0.5, lambda x, k: (-k(x - 0.5), k(x - 0.5))),
    "logit": (
        Trainable(0.5) > 0.0,
        lambda x: np.ones_like(x, bool),
        lambda x, k: (0 * x, k(0.5 + 0 * x)),
    ),
}


@pytest.mark.gradient
@both
def test_surrogate(compile):
    """Hard values; what comes through the condition is the derivative of a sigmoid."""
    # To compile all of them would take long.
    names = ["dead zone", "or"] if compile else list(SURROGATES)
    layers = [
        Editing(
            at.where(SURROGATES[name][0]).multiply(Trainable(3.0)),
            gradient="sigmoid",
            temperature=0.7,
        )
        for name in names
    ]
    for name, result in zip(names, gradients(layers, DATA, compile), strict=True):
        _, met, slopes = SURROGATES[name]
        value, dx, (factor, threshold) = result
        chosen = met(DATA)
        assert chosen.any(), name
        through = UPSTREAM * (3 * DATA - DATA)
        by_x, by_threshold = slopes(DATA, lambda distance: sigmoid_slope(distance, 0.7))
        check_close(value, np.where(chosen, 3 * DATA, DATA))
        check_close(dx, np.where(chosen, 3, 1) * UPSTREAM + through * by_x, rtol=1e-4)
        check_close(threshold, (through * by_threshold).sum(), rtol=1e-4)
        check_close(factor, (UPSTREAM * DATA)[chosen].sum(), rtol=1e-4)


@pytest.mark.gradient
@both
def test_surrogate_of_a_part_of_the_tensor(compile):
    condition = X > Trainable([0.5, -0.5])
    layer = Editing(sample[[5, 2]].where(condition).set(1.0), gradient="sigmoid", temperature=0.5)
    ((value, dx, (threshold,)),) = gradients([layer], DATA, compile)
    part, upstream = DATA[:, [5, 2]], UPSTREAM[:, [5, 2]]
    chosen = part > [0.5, -0.5]
    expected, by_hand = DATA.copy(), UPSTREAM.copy()
    expected[:, [5, 2]] = np.where(chosen, 1, part)
    through = upstream * (1 - part) * sigmoid_slope(part - [0.5, -0.5], 0.5)
    by_hand[:, [5, 2]] = upstream * ~chosen + through
    check_close(value, expected)
    check_close(dx, by_hand)
    check_close(threshold, -through.sum(axis=0))


SPECIAL = np.resize(
    np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, -1.5, 60000.0, 0.5], "float32"), (7, 6)
)
CHANGES = {
    "straight_through": at.where(X > 0.5).multiply(-0.0),
    "blocked": at[..., 1:].where(X < 0.5).multiply(0.3),
    "sigmoid": at.where(abs(X) < Trainable(0.5)).add(-0.7),
    "sigmoid, part": sample[[4, 0, 1]].where(X > Trainable(-9.0)).set(-0.0),
    "sigmoid, all": at.where((X > Trainable(1.0)) | ~(X < 3.0)).multiply(0.3),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_values_are_those_of_the_exact_gradient_to_the_last_bit(dtype):
    """With both zeros, infinity and NaN."""
    for name, edit in CHANGES.items():
        layer = Editing(edit, gradient=name.split(",")[0], dtype=dtype)
        check_bits(layer, lambda layer: layer, dtype)


@pytest.mark.gradient
def test_compilers_leave_the_last_bit_alone():
    check_bits(Editing(CHANGES["sigmoid, part"], gradient="sigmoid"), compiled, "float32")


def check_bits(layer, run, dtype):
    layer.build((None, 6))
    thresholds = [float(weight) for weight in layer.get_weights()]
    edit = layer.edit.map(lambda _: thresholds.pop(0))
    with np.errstate(over="ignore"):
        expected = edit(SPECIAL.astype(dtype))
    found = to_numpy(run(layer)(ops.convert_to_tensor(SPECIAL.astype(dtype))))
    zero = expected == 0
    np.testing.assert_array_equal(found, expected, repr(layer.edit))
    np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(expected[zero]))


@pytest.mark.gradient
def test_gradients_are_finite_beside_infinity_and_nan():
    layers = [
        Editing(edit, gradient=name.split(",")[0], temperature=0.5)
        for name, edit in CHANGES.items()
    ]
    for _, dx, dw in gradients(layers, SPECIAL, False, np.ones((7, 6), "float32")):
        for gradient in (dx, *dw):
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "edit",
    [
        at.where(X > Trainable(5.0)).multiply(2.0),
        at[..., 0].set(1.0) | at.where(~(Trainable("ones") > 0)).set(0.0),
    ],
    ids=repr,
)
@pytest.mark.parametrize("gradient", ["exact", "straight_through", "blocked"])
def test_a_threshold_that_could_never_learn_is_refused_when_built(edit, gradient):
    layer = Editing(edit, gradient=gradient)
    for build in (lambda: layer.build((None, 3)), lambda: layer(keras.Input((3,)))):
        with pytest.raises(OperandError, match="Received") as raised:
            build()
        assert 'gradient="sigmoid"' in str(raised.value)
        assert isinstance(raised.value, TypeError)


def test_a_threshold_without_an_order_is_refused_though_there_is_a_surrogate():
    layer = Editing(at.where((X > 0) & (X != Trainable(5.0))).set(2.0), gradient="sigmoid")
    with pytest.raises(OperandError, match="Received"):
        layer.build((None, 3))


def test_what_no_surrogate_can_help_is_refused():
    for edit in (at[..., 0].set(1.0), at.where(X.isnan()).set(0.0), at.where(X != 0).set(0.0)):
        with pytest.raises(OperandError, match="Received"):
            Editing(edit, gradient="sigmoid")
    for options in (
        {"gradient": "soft"},
        {"gradient": "sigmoid", "temperature": 0.0},
        {"gradient": "sigmoid", "temperature": "1"},
        {"when": "never"},
        {"switch": 2},
    ):
        with pytest.raises(OperandError, match="Received"):
            Editing(at.where(X > 0).set(0.0), **options)
    twice = Editing(sample[[1, 1]].where(X > 0).add(1.0), gradient="sigmoid")
    with pytest.raises(OperandError, match="Received"):
        twice(ops.zeros((2, 3)))


def test_integers_have_no_gradient_to_choose_and_complex_numbers_no_order():
    x = ops.convert_to_tensor(np.array([[1, 6]], "int32"))
    for gradient in ("exact", "straight_through", "blocked", "sigmoid"):
        layer = Editing(at.where(X > 5).multiply(2), gradient=gradient)
        assert to_numpy(layer(x)).tolist() == [[1, 12]]
    complex_ = ops.convert_to_tensor(np.ones((1, 2), "complex64"))
    with pytest.raises(DTypeError, match="Received"):
        Editing(sample[0].set(1.0), gradient="blocked", autocast=False)(complex_)


@pytest.mark.gradient
def test_a_threshold_is_found_again():
    rng = np.random.default_rng(0)
    x = rng.normal(scale=1.5, size=(2048, 8)).astype("float32")
    y = np.where(x > 1.3, 2 * x, x)
    keras.utils.set_random_seed(0)
    layer = ConditionalModifier(Trainable(0.4), 2.0, gradient="sigmoid", temperature=0.1)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.Adam(0.03), "mse")
    model.fit(x, y, 128, epochs=8, verbose=0)
    np.testing.assert_allclose(layer.get_weights()[0], 1.3, rtol=0.01)
