"""Activations on disk: what `predict` gives, batch by batch, from any kind of data, resumed."""

import h5py
import keras
import numpy as np
import pytest
from _backend import BACKEND

from kedit.errors import OperandError, ShapeError
from kedit.interventions import Activations, ablation_study, capture, patching_study
from kedit.interventions import _capture as capturing


def made(time=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((time, 3))
    block = keras.Sequential(
        [keras.layers.Dense(4, name="hidden"), keras.layers.ReLU()], name="block"
    )
    model = keras.Model(inputs, keras.layers.Dense(2)(block(inputs)))
    return capture(model, ["block/hidden", "block"])


X = np.random.default_rng(0).normal(size=(50, 5, 3)).astype("float32")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, number):
        return X[10 * number : 10 * number + 10], np.zeros(10)


class Unmeasured:
    """Batches of which nobody knows how many they are, as of a `tf.data.Dataset` that filters."""

    def __iter__(self):
        return batches()

    def __len__(self):
        raise TypeError("The dataset length is unknown.")


def batches():
    yield from (X[start : start + 10] for start in range(0, 50, 10))


def of_torch():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.zeros(50))
    return torch.utils.data.DataLoader(data, batch_size=7)


def of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, np.zeros(50))).batch(7)


GIVEN = {
    "arrays": lambda: X,
    "dataset": Batches,
    "generator": batches,
    "unknown length": Unmeasured,
    "pairs": lambda: ((x, np.zeros(10)) for x in batches()),
}
GIVEN |= {"torch": {"DataLoader": of_torch}, "tensorflow": {"tf.data": of_tensorflow}}.get(
    BACKEND, {}
)


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_written_is_what_is_predicted(name, tmp_path):
    acts = made()
    expected = acts.predict(X, verbose=0)
    with acts.to_disk(tmp_path / "acts.h5", GIVEN[name](), verbose=0) as stored:
        assert stored.rows == 50
        assert set(stored) == set(expected)
        for site, values in expected.items():
            assert stored[site].dtype == values.dtype
            np.testing.assert_allclose(stored[site][:], values, rtol=1e-5, atol=1e-6)
    assert "closed" in repr(stored)


class CutError(Exception):
    pass


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_run_that_was_cut_off_goes_on(name, after, tmp_path, monkeypatch):
    acts, path = made(), tmp_path / "acts.h5"
    expected = acts.predict(X, verbose=0)
    predict, ran = acts.predict_on_batch, []

    def cut(x):
        if len(ran) == after:
            raise CutError
        ran.append(len(x))
        return predict(x)

    monkeypatch.setattr(acts, "predict_on_batch", cut)
    with pytest.raises(CutError):
        acts.to_disk(path, GIVEN[name](), batch_size=9, verbose=0)
    first = sum(ran)
    ran.clear()
    after = -1
    with acts.to_disk(path, GIVEN[name](), batch_size=8, verbose=0) as stored:
        assert sum(ran) == 50 - first
        for site, values in expected.items():
            np.testing.assert_allclose(stored[site][:], values, rtol=1e-5, atol=1e-6)
    ran.clear()
    acts.to_disk(path, GIVEN[name](), verbose=0).close()  # there is nothing left to do
    assert not ran


def test_batches_of_other_sizes_go_on_within_a_batch(tmp_path):
    acts, path = made(), tmp_path / "acts.h5"
    acts.to_disk(path, X[:13], verbose=0).close()
    with acts.to_disk(path, batches(), verbose=0) as stored:
        expected = acts.predict(X, verbose=0)["block"]
        np.testing.assert_allclose(stored["block"][:], expected, rtol=1e-5, atol=1e-6)


def test_rows_that_were_not_completed_are_written_again(tmp_path):
    acts, path = made(), tmp_path / "acts.h5"
    acts.to_disk(path, X[:20], verbose=0).close()
    with h5py.File(path, "a") as file:
        file.attrs["rows"] = 10
    with acts.to_disk(path, X, verbose=0) as stored:
        assert stored.rows == len(stored["block"]) == 50
        expected = acts.predict(X, verbose=0)["block"]
        np.testing.assert_allclose(stored["block"][:], expected, rtol=1e-5, atol=1e-6)


# JAX keeps 32 bits unless told otherwise.
@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float64"][: 2 if BACKEND == "jax" else 3]
)
def test_dtypes(dtype, tmp_path):
    inputs = keras.Input((3,), dtype=dtype)
    model = keras.Model(inputs, keras.layers.Rescaling(2.0, dtype=dtype, name="h")(inputs))
    acts = capture(model, "h")
    with acts.to_disk(tmp_path / "acts.h5", X[:, 0], verbose=0) as stored:
        kept = "float32" if dtype == "bfloat16" else dtype
        assert stored["h"].dtype == kept
        expected = np.asarray(acts.predict(X[:, 0], verbose=0)["h"]).astype(kept)
        np.testing.assert_array_equal(stored["h"][:], expected)


def test_what_does_not_fit_is_refused(tmp_path):
    acts, path = made(), tmp_path / "acts.h5"
    with pytest.raises(ShapeError, match="Pad the inputs"):
        acts.to_disk(path, iter([X, X[:, :4]]), verbose=0)
    with Activations(path) as stored:  # what came before stays
        assert stored.rows == 50
    with pytest.raises(OperandError, match="no batch"):
        acts.to_disk(tmp_path / "none.h5", iter([]), verbose=0)
    with pytest.raises(ShapeError, match="one number of examples"):
        acts.to_disk(tmp_path / "none.h5", {"a": X, "b": X[1:]}, verbose=0)
    with pytest.raises(OperandError, match="an iterator over batches"):
        acts.to_disk(tmp_path / "none.h5", 3, verbose=0)
    for name in ("none.txt", "no.h5"):
        other = tmp_path / name
        if name == "none.txt":
            other.write_text("something else")
        with pytest.raises(OperandError, match="has written"):
            Activations(other)
    with pytest.raises(OperandError, match="another file"):
        acts.to_disk(tmp_path / "none.txt", X, verbose=0)
    assert (tmp_path / "none.txt").read_text() == "something else"
    with pytest.raises(ShapeError, match="same sites"):
        capture(acts.edited, "block").to_disk(path, iter([X, X]), verbose=0)


def test_progress_is_shown(tmp_path, capsys):
    made().to_disk(tmp_path / "acts.h5", X, batch_size=25).close()
    assert "2/2" in capsys.readouterr().out
    assert capturing.Activations is Activations


@pytest.mark.parametrize("name", GIVEN)
def test_studies_take_the_same_data(name):
    model = made().edited.base
    given = {"metric": lambda y: y[:, 0, 0], "verbose": 0}
    found = ablation_study(model, GIVEN[name](), "block/hidden", **given)
    expected = ablation_study(model, X, "block/hidden", **given)
    np.testing.assert_allclose(found.after, expected.after, rtol=1e-6, atol=1e-6)
    patches = patching_study(model, GIVEN[name](), X[::-1].copy(), "block", **given)
    assert patches.clean.shape == (50,)
    np.testing.assert_allclose(patches.clean, expected.before, rtol=1e-6, atol=1e-6)


class Endless(Batches):
    @property
    def num_batches(self):
        return None


def test_data_without_an_end_or_used_up_is_refused(tmp_path):
    acts = made()
    with pytest.raises(OperandError, match="should end"):
        acts.to_disk(tmp_path / "acts.h5", Endless(), verbose=0)
    used_up = batches()
    assert len(list(used_up)) == 5
    for x in (Endless(), used_up):
        with pytest.raises(OperandError, match=r"should end|is not used up"):
            ablation_study(acts.edited.base, x, "block", lambda y: y[:, 0, 0], verbose=0)
