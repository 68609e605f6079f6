"""Prune and freeze in any order, beside masks that are kept by hand."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close, check_holds_no_code, check_roundtrip, in_full_once, saved_and_loaded

from kedit import X, at
from kedit.errors import OperandError, SavingError, ShapeError
from kedit.weights import WeightEditing, freeze_elements, prune

RNG = np.random.default_rng(0)
INPUT = RNG.normal(size=(16, 6)).astype("float32")
TARGET = RNG.normal(size=(16, 2)).astype("float32")
KERNELS = ("first/kernel", "second/kernel", "last/kernel")
SHAPES = ((6, 8), (8, 4), (4, 2))
HELD = [RNG.random(shape) < 0.3 for shape in SHAPES]


def plain(seed=0):
    rng = np.random.default_rng(seed)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh", name="first"),
            keras.layers.Dense(4, activation="tanh", name="second"),
            keras.layers.Dense(2, name="last"),
        ]
    )
    model.set_weights([rng.normal(size=w.shape).astype("float32") for w in model.weights])
    return model


def least(values, sparsity, gone=None):
    """The elements with the least magnitude, in C order; those that are gone come first."""
    score = np.abs(values)
    if gone is not None:
        score = np.where(gone, -np.inf, score)
    order = np.argsort(score, axis=None, kind="stable")[: int(sparsity * values.size + 0.5)]
    mask = np.zeros(values.size, bool)
    mask[order] = True
    return mask.reshape(values.shape)


def by_hand(steps, weights):
    """What a model computes with after steps, in NumPy."""
    weights = {name: w.copy() for name, w in weights.items()}
    for what, name, amount in steps:
        w = weights[name]
        if what == "prune":
            w[least(w, amount)] = 0.0
        else:
            mask = HELD[KERNELS.index(name)]
            w[mask] = w[mask] if amount is None else amount
    return weights


def by_kedit(steps, model):
    for what, name, amount in steps:
        if what == "prune":
            model = prune(model, name, amount)
        else:
            model = freeze_elements(model, name, HELD[KERNELS.index(name)], amount)
    return model


def kernels(model):
    return {name: to_numpy(model.weight(name)).copy() for name in KERNELS}


def check_agrees(model, expected, path):
    """Check what is reported, predicted, counted, saved, loaded and baked."""
    predicted = model.predict(INPUT, verbose=0)
    loaded = saved_and_loaded(model, path)
    check_holds_no_code(path)
    for one in (model, loaded):
        for name, weight in expected.items():
            np.testing.assert_array_equal(to_numpy(one.weight(name)), weight)
        rows = {row.weight: row for row in one.sparsity()}
        for name, weight in expected.items():
            if name in rows:
                assert rows[name].zeros == (weight == 0).sum()
                assert rows[name].shape == weight.shape
        assert not isinstance(one.base, WeightEditing)
        check_close(one.predict(INPUT, verbose=0), predicted)
        baked = one.bake()
        for name, weight in expected.items():
            layer, own = name.split("/")
            np.testing.assert_array_equal(to_numpy(getattr(baked.get_layer(layer), own)), weight)
        check_close(baked.predict(INPUT, verbose=0), predicted)
        check_close(one.predict(INPUT, verbose=0), predicted)


@pytest.mark.parametrize("seed", in_full_once(range(12), (0, 5)))
def test_chained_calls_in_any_order_agree_with_masks_kept_by_hand(seed, tmp_path):
    """Three kernels and two kinds of edit, eight calls, each of any of them."""
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(8):
        what = ("prune", "freeze")[rng.integers(2)]
        amounts = (0.1, 0.3, 0.5, 0.75) if what == "prune" else (None, 0.0, 0.25, 9.0)
        steps.append((what, KERNELS[rng.integers(3)], amounts[rng.integers(4)]))
    base = plain(seed)
    start = {name: to_numpy(base.get_layer(name[:-7]).kernel).copy() for name in KERNELS}
    model = by_kedit(steps, base)
    expected = by_hand(steps, start)
    for name in KERNELS:
        np.testing.assert_array_equal(to_numpy(base.get_layer(name[:-7]).kernel), start[name])
    check_agrees(model, expected, tmp_path / "model.keras")


@pytest.mark.gradient
def test_what_is_held_does_not_move_and_the_rest_does(tmp_path):
    """Under AdamW with moving averages, through files and calls between them."""
    steps = [("freeze", "first/kernel", 0.5), ("prune", "first/kernel", 0.5)]
    steps += [("prune", "second/kernel", 0.75), ("freeze", "second/kernel", 2.0)]
    model = by_kedit(steps, plain())
    before = kernels(model)
    first, second = HELD[0] | (before["first/kernel"] == 0), HELD[1]
    second = second | (before["second/kernel"] == 0)
    for path in ("one.keras", "two.keras"):
        model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True), "mse")
        model.fit(INPUT, TARGET, 4, 5, verbose=0)
        after = kernels(model)
        for name, held in (("first/kernel", first), ("second/kernel", second)):
            np.testing.assert_array_equal(after[name][held], before[name][held])
            assert (after[name][~held] != before[name][~held]).all()
        model = saved_and_loaded(model, tmp_path / path)
    check_agrees(model, kernels(model), tmp_path / "three.keras")


def test_weights_alone_keep_the_masks(tmp_path):
    """A `.weights.h5` file, into a model that was pruned differently."""
    model = prune(plain(), "*/kernel", 0.5)
    model.save_weights(tmp_path / "w.weights.h5")
    other = prune(plain(1), "*/kernel", 0.0)
    other.load_weights(tmp_path / "w.weights.h5")
    for name, weight in kernels(model).items():
        np.testing.assert_array_equal(to_numpy(other.weight(name)), weight)


def test_several_at_once_are_as_one_by_one():
    model = prune(plain(), ["first/kernel", "l*/kernel"], 0.5)
    expected = by_hand([("prune", "first/kernel", 0.5), ("prune", "last/kernel", 0.5)], kernels(
        WeightEditing(plain(), {})
    ))  # fmt: skip
    assert kernels(model).keys() == expected.keys()
    for name, weight in kernels(model).items():
        np.testing.assert_array_equal(weight, expected[name])
    frozen = freeze_elements(
        plain(), {"first/kernel": HELD[0], "s*/kernel": X > 0, "last": at[0]}, value=3.0
    )
    found = kernels(frozen)
    start = kernels(WeightEditing(plain(), {}))
    np.testing.assert_array_equal(
        found["first/kernel"], np.where(HELD[0], np.float32(3), start["first/kernel"])
    )
    np.testing.assert_array_equal(
        found["second/kernel"],
        np.where(start["second/kernel"] > 0, np.float32(3), start["second/kernel"]),
    )
    assert (found["last/kernel"][0] == 3).all()
    assert to_numpy(frozen.weight("last/bias"))[0] == 3
    assert check_roundtrip(frozen).edits == frozen.edits
    whole = freeze_elements(plain(), "*/bias")
    assert {row.weight for row in whole.sparsity()} == {"first/bias", "second/bias", "last/bias"}


def test_global_scope_ranks_all_weights_in_one_list():
    model = prune(plain(), "*/kernel", 0.6, scope="global")
    start = kernels(WeightEditing(plain(), {}))
    mask = least(np.concatenate([w.ravel() for w in start.values()]), 0.6)
    found = np.concatenate([w.ravel() for w in kernels(model).values()])
    np.testing.assert_array_equal(found == 0, mask)
    shares = {row.share for row in model.sparsity()}
    assert len(shares) > 1


def conv(kind, *shape, **options):
    layer = kind(name="layer", **options)
    layer.build(shape)
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape).astype("float32") for w in layer.weights])
    return layer


LAYERS = keras.layers
CHANNELS = {
    "Dense": (lambda: conv(LAYERS.Dense, None, 6, units=8), (0,)),
    "Conv2D": (
        lambda: conv(LAYERS.Conv2D, None, 5, 5, 4, filters=8, kernel_size=3),
        (0, 1, 2),
    ),
    "Conv2DTranspose": (
        lambda: conv(LAYERS.Conv2DTranspose, None, 5, 5, 4, filters=8, kernel_size=3),
        (0, 1, 3),
    ),
    "DepthwiseConv2D": (
        lambda: conv(LAYERS.DepthwiseConv2D, None, 5, 5, 8, kernel_size=3),
        (0, 1),
    ),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_whole_channels(name):
    make, axes = CHANNELS[name]
    layer = make()
    start = to_numpy(layer.kernel)
    found = to_numpy(prune(layer, "kernel", 0.5, structure="channels").weight("kernel"))
    means = np.abs(start).mean(axis=axes, keepdims=True)
    expected = np.where(means <= np.sort(means.ravel())[3], 0, start)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(8, 6), (3, 3, 8, 2)])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (3, 8)])
def test_n_of_m_neighbors_along_the_input_axis_are_kept(shape, n, m):
    if len(shape) == 2:
        layer = conv(LAYERS.Dense, None, shape[0], units=shape[1])
    else:
        layer = conv(LAYERS.Conv2D, None, 5, 5, shape[2], filters=shape[3], kernel_size=3)
    start = to_numpy(layer.kernel)
    pruned = prune(layer, layer.kernel, structure=(n, m))
    found = to_numpy(pruned.weight("kernel"))
    for where in np.ndindex(*shape[:-2], shape[-2] // m, shape[-1]):
        row = np.s_[(*where[:-2], slice(where[-2] * m, where[-2] * m + m), where[-1])]
        kept = np.sort(np.argsort(-np.abs(start[row]))[:n])
        np.testing.assert_array_equal(np.flatnonzero(found[row]), kept)
        np.testing.assert_array_equal(found[row][kept], start[row][kept])
    pruned.prune_further(0.0)
    np.testing.assert_array_equal(to_numpy(pruned.weight("kernel")), found)
    half = prune(layer, layer.kernel, (1 - n / m) / 2, structure=(n, m)).weight("kernel")
    gone = to_numpy(half) == 0
    assert gone.sum() == int((1 - n / m) / 2 * gone.size + 0.5)
    assert not (gone & (found != 0)).any()


def test_blocks():
    layer = conv(LAYERS.Dense, None, 8, units=6)
    start = to_numpy(layer.kernel)
    found = to_numpy(prune(layer, "kernel", 0.5, block=(4, 2)).weight("kernel"))
    means = np.abs(start).reshape(2, 4, 3, 2).mean(axis=(1, 3))
    gone = means <= np.sort(means.ravel())[2]
    np.testing.assert_array_equal(found, np.where(gone.repeat(4, 0).repeat(2, 1), 0, start))


def test_importance_by_a_function_or_by_scores():
    layer = conv(LAYERS.Dense, None, 4, units=4)
    start = to_numpy(layer.kernel)
    scores = RNG.permutation(16).reshape(4, 4)
    for importance in (lambda w: scores, {"kernel": scores}, {layer: scores}):
        found = to_numpy(prune(layer, "kernel", 0.5, importance=importance).weight("kernel"))
        np.testing.assert_array_equal(found, np.where(scores < 8, 0, start))
    pruned = prune(layer, "kernel", 0.25, importance={"kernel": scores})
    pruned.prune_further(0.5)
    np.testing.assert_array_equal(to_numpy(pruned.weight("kernel")) == 0, scores < 8)
    again = WeightEditing.from_config(pruned.get_config())
    again.build((None, 4))
    with pytest.raises(OperandError, match="not saved"):
        again.prune_further(0.75)


@keras.saving.register_keras_serializable(package="test_pruning")
def squared(weight):
    return weight**2


def test_an_importance_that_is_registered_is_saved(tmp_path):
    model = prune(plain(), "*/kernel", 0.25, importance=squared)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    for one in (model, loaded):
        one.prune_further(0.5)
    for name, weight in kernels(model).items():
        np.testing.assert_array_equal(kernels(loaded)[name], weight)


@pytest.mark.once
@pytest.mark.parametrize(
    "importance",
    [
        {"function": "os>system"},
        {"function": 3},
        {"function": "kedit>Edit"},
        {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"},
    ],
)
def test_loading_an_importance_imports_nothing(importance):
    config = prune(plain(), "*/kernel", 0.25, importance=squared).get_config()
    (rule,) = config["rules"]
    assert rule["importance"] == {"function": "test_pruning>squared"}
    config["rules"] = [{**rule, "importance": importance}]
    with pytest.raises(SavingError, match="Received"):
        WeightEditing.from_config(config)


def test_pruned_further_in_place_and_back():
    model = prune(plain(), "*/kernel", 0.25)
    start = kernels(WeightEditing(plain(), {}))
    model.predict(INPUT, verbose=0)
    for sparsity, regrow, expected in ((0.5, False, 0.5), (0.25, False, 0.5), (0.25, True, 0.25)):
        model.prune_further(sparsity, regrow=regrow)
        for name, weight in kernels(model).items():
            np.testing.assert_array_equal(
                weight, np.where(least(start[name], expected), 0, start[name])
            )
        reference = plain()
        for layer, weight in zip(reference.layers, kernels(model).values(), strict=True):
            layer.kernel.assign(weight)
        check_close(model.predict(INPUT, verbose=0), reference.predict(INPUT, verbose=0))
    with pytest.raises(OperandError, match="Write `prune"):
        WeightEditing(plain(), {}).prune_further(0.5)


def test_the_table_prints():
    model = prune(plain(), "*/kernel", 0.5)
    table = model.sparsity()
    assert [row.zeros for row in table] == [24, 16, 4]
    lines = repr(table).split("\n")
    assert lines[0].split() == ["weight", "shape", "zeros", "total", "share"]
    assert lines[1].split() == ["first/kernel", "(6,", "8)", "24", "48", "50.0%"]
    assert lines[-1].split() == ["the", "model", "44", "102", "43.1%"]
    assert (table.zeros, table.total) == (44, 102)
    html = table._repr_html_()
    assert "43.1% of the weights" in html
    assert "<td>second/kernel</td>" in html


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_edits_that_add_are_baked_once(depth):
    """Models in models, a layer that is used twice, and the model that was baked after that."""
    model = plain()
    for _ in range(depth):
        model = WeightEditing(model, {"first/kernel": at[0].add(1.0)})
    expected = model.predict(INPUT, verbose=0)
    check_close(model.bake().predict(INPUT, verbose=0), expected)
    check_close(model.predict(INPUT, verbose=0), expected)
    check_close(model.bake().predict(INPUT, verbose=0), expected)
    layer = conv(LAYERS.Dense, None, 6, units=6)
    edited = [WeightEditing(layer, {"kernel": at[0].add(1.0)}) for _ in range(2)]
    inputs = keras.Input((6,))
    shared = keras.Model(inputs, edited[0](edited[1](edited[0](inputs))))
    shared = WeightEditing(shared, {"layer/kernel": at[:, 0].multiply(2.0)})
    expected = shared.predict(INPUT, verbose=0)
    check_close(shared.bake().predict(INPUT, verbose=0), expected)
    check_close(shared.predict(INPUT, verbose=0), expected)


BAD = {
    "sparsity": lambda m: prune(m, "*/kernel", 1.5),
    "no sparsity": lambda m: prune(m, "*/kernel"),
    "a bool": lambda m: prune(m, "*/kernel", True),
    "scope": lambda m: prune(m, "*/kernel", 0.5, scope="all"),
    "structure": lambda m: prune(m, "*/kernel", 0.5, structure="rows"),
    "n of m": lambda m: prune(m, "*/kernel", structure=(4, 2)),
    "above n of m": lambda m: prune(m, "first/kernel", 0.75, structure=(1, 2)),
    "global n of m": lambda m: prune(m, "*/kernel", structure=(1, 2), scope="global"),
    "a structure and a block": lambda m: prune(
        m, "*/kernel", 0.5, structure="channels", block=(2, 2)
    ),
    "block of 0": lambda m: prune(m, "*/kernel", 0.5, block=(0, 2)),
    "importance": lambda m: prune(m, "*/kernel", 0.5, importance="gradient"),
    "scores for some": lambda m: prune(
        m, "*/kernel", 0.5, importance={"first/kernel": np.ones((6, 8))}
    ),
    "an index beside a dict": lambda m: freeze_elements(m, {"first/kernel": 0}, 0),
    "two weights": lambda m: prune(m, "kernel", 0.5),
    "none": lambda m: prune(m, "*/gamma", 0.5),
}
BAD_SHAPES = {
    "structure": lambda m: prune(m, "*/kernel", structure=(2, 4)),
    "block": lambda m: prune(m, "*/kernel", 0.5, block=(4, 4)),
    "block of three axes": lambda m: prune(m, "*/kernel", 0.5, block=(2, 2, 2)),
    "scores": lambda m: prune(m, "*/kernel", 0.5, importance=lambda w: w[0]),
    "NaN": lambda m: prune(m, "*/kernel", 0.5, importance=lambda w: w * np.nan),
    "mask": lambda m: freeze_elements(m, {"*/kernel": HELD[0]}, value=0.0),
}


@pytest.mark.parametrize("name", [*BAD, *[f"{name}, shapes" for name in BAD_SHAPES]])
def test_what_does_not_fit_is_refused_and_the_base_unchanged(name):
    model = plain()
    before = [w.copy() for w in model.get_weights()]
    make = BAD.get(name) or BAD_SHAPES[name.removesuffix(", shapes")]
    with pytest.raises(OperandError if name in BAD else Exception, match="Received") as raised:
        make(model)
    if name not in BAD and "mask" not in name:
        assert isinstance(raised.value, ShapeError)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
