"""Pickles and saved files hold public names, so that what is inside kedit may move."""

import base64
import json
import multiprocessing
import pickle
import pickletools
import zipfile

import keras
import numpy as np
import pytest
from test_reprs import CODE, LAYERS, OTHERS, RESULTS, network

import kedit
from kedit import Edit, Trainable, X, at, block, draft, each, position, sample
from kedit.interventions import Activations, ablation_study, capture, edit_model
from kedit.weights import prune


def private(names):
    """The names that lead into the inside of kedit."""
    return {name for name in names if name.startswith("kedit.") and "._" in name}


def names_in(thing, protocol):
    """The strings in a pickle, of which some are names of modules."""
    parts = pickletools.genops(pickle.dumps(thing, protocol))
    texts = [part for _, part, _ in parts if isinstance(part, str)]
    return {word for text in texts for word in text.split()}


PICKLED_BEFORE = (
    "gASVxAIAAAAAAABdlCiMC2tlZGl0Ll9lZGl0lIwMRWRpdFNlcXVlbmNllJOUaAGMBEVkaXSUk5QojBBrZWRpdC5fc2VsZW"
    "N0aW9ulIwJU2VsZWN0aW9ulJOUjAJhdJSMDGtlZGl0Ll9pbmRleJSMBUluZGV4lJOUjAxrZWRpdC5faXRlbXOUjAlQb3Np"
    "dGlvbnOUk5RLAoWUSwBLAoaUhpSBlIwIYnVpbHRpbnOUjAVzbGljZZSTlEsBSwNOh5RSlIaUhZRSlIwRa2VkaXQuX2V4cH"
    "Jlc3Npb26UjApFeHByZXNzaW9ulJOUjAdncmVhdGVylGgejAFYlIWUUpRHP/AAAAAAAACHlFKUh5RSlIwDc2V0lIwLa2Vk"
    "aXQuX2RhdGGUjAVBcnJheZSTlCiMB2Zsb2F0NjSUSwFLAoaURz/wAAAAAAAAR0AAAAAAAAAAhpROdJRSlIwJc2FtZV9raW"
    "5klE6MAXiUTk5OiYl0lFKUaAUoaAhoCWgMaBSMCEVsbGlwc2lzlJOUSwCGlIWUUpROh5RSlIwDYWRklEc/8AAAAAAAAGgw"
    "TmgxTk5OiYl0lFKUhpRSlGgFKGgIjAZzYW1wbGWUaAxoDYwERWFjaJSTlCmBlF2UaA9LAoWUSwBLAYaUhpSBlGFiSwKGlI"
    "WUUpROh5RSlGg7jBBrZWRpdC5fdHJhaW5hYmxllIwJVHJhaW5hYmxllJOUKIwFemVyb3OUTk5OTnSUUpRoME5oMU5OTomJ"
    "dJRSlGgFKGgIaAloDGgNjAVCbG9ja5STlCmBlF2UKEsCSwNlYoWUhZRSlE6HlFKUjAhtdWx0aXBseZRoHmhfR0AAAAAAAA"
    "AAaCKHlFKUaDBOaDFOTk6JiXSUUpRoBShoCGgJaAxoKiiMBGJvb2yUSwKFlIiJhpROdJRSlIWUhZRSlE6HlFKUaCdLAGgw"
    "TmgxTk5OiYl0lFKUZS4="
)
PICKLED = (
    "gASVfgIAAAAAAABdlCiMBWtlZGl0lIwMRWRpdFNlcXVlbmNllJOUaAGMBEVkaXSUk5QoaAGMCl91bnBpY2tsZWSUk5QojAl"
    "TZWxlY3Rpb26UjAJhdJRoB4wFSW5kZXiUaAeMCVBvc2l0aW9uc5RLAoWUSwBLAoaUh5RSlIwIYnVpbHRpbnOUjAVzbGljZZ"
    "STlEsBSwNOh5RSlIaUhpRSlGgHKIwKRXhwcmVzc2lvbpSMB2dyZWF0ZXKUaAdoGIwBWJSGlFKURz/wAAAAAAAAdJRSlHSUU"
    "pSMA3NldJRoByiMBUFycmF5lIwHZmxvYXQ2NJRLAUsChpRHP/AAAAAAAABHQAAAAAAAAACGlE50lFKUjAlzYW1lX2tpbmSU"
    "TowBeJROTk6JiXSUUpRoBShoByhoCGgJaAdoCmgQjAhFbGxpcHNpc5STlEsAhpSGlFKUTnSUUpSMA2FkZJRHP/AAAAAAAAB"
    "oKE5oKU5OTomJdJRSlIaUUpRoBShoByhoCIwGc2FtcGxllGgHaApoB4wERWFjaJRoB2gLSwKFlEsASwGGlIeUUpSGlFKUSw"
    "KGlIaUUpROdJRSlGgzaAGMCVRyYWluYWJsZZSTlCiMBXplcm9zlE5OTk6IdJRSlGgoTmgpTk5OiYl0lFKUaAUoaAcoaAhoC"
    "WgHaApoB4wFQmxvY2uUSwJLA4eUUpSFlIaUUpROdJRSlIwIbXVsdGlwbHmUaAcoaBhoVEdAAAAAAAAAAGgcdJRSlGgoTmgp"
    "Tk5OiYl0lFKUaAUoaAcoaAhoCWgHaApoByhoIowEYm9vbJRLAoWUiImGlE50lFKUhZSGlFKUTnSUUpRoIUsAaChOaClOTk6"
    "JiXSUUpRlLg=="
)


@pytest.mark.parametrize("pickled", [PICKLED_BEFORE, PICKLED], ids=["modules", "names"])
def test_pickles_of_before_load(pickled):
    edits = [
        at[[0, 2], 1:3].where(X > 1.0).set(np.array([[1.0, 2.0]])) | at[..., 0].add(1.0),
        sample[each([0, 1]), 2].add(Trainable("zeros")),
        at[block(2, 3)].multiply(2.0 * X),
        at[np.array([True, False])].set(0),
    ]
    assert pickle.loads(base64.b64decode(pickled)) == edits


def network_of_weights():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])


def double(x):
    return x * 2.0


THINGS = [
    *[thing for thing, _ in CODE + OTHERS if not isinstance(thing, keras.losses.Loss)],
    at,
    sample,
    at[0],
    sample[[0, 2], 1].where(X > 0.0),
    at(np.zeros((2, 3)))[0],
    draft(np.zeros((2, 3))),
    at[[0, 2], 1:].where((X > 1.0) & ~X.isnan()).set(np.ones((2, 1))),
    at[np.eye(3, dtype=bool)].add(np.arange(3.0)),
    sample[each([[0, 1], [2, 0]]), block(0, 2)].set(0.0),
    at.where(position(0) > position(1)).set(X * np.arange(2000.0), otherwise=X.apply(double)),
    at[0].apply(double),
    at[0].set(1.0).on("image/rgb"),
    *[thing for name in kedit.__all__ if callable(thing := getattr(kedit, name))],
    edit_model,
]


@pytest.mark.once
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("number", range(len(THINGS)))
def test_pickles_name_what_is_public(number, protocol):
    thing = THINGS[number]
    assert not private(names_in(thing, protocol))
    again = pickle.loads(pickle.dumps(thing, protocol))
    assert type(again) is type(thing)
    if isinstance(thing, Edit):
        assert again == thing
    assert repr(again) == repr(thing)


@pytest.mark.once
@pytest.mark.parametrize("kind", [*LAYERS, *RESULTS], ids=lambda kind: kind.__name__)
def test_so_do_those_of_layers_and_results(kind):
    made = {**LAYERS, **RESULTS}[kind][0]()
    assert not private(names_in(made, 5))


def test_activations_are_opened_again(tmp_path):
    with capture(network(), "h").to_disk(tmp_path / "a.h5", np.ones((4, 3)), verbose=0) as stored:
        again = pickle.loads(pickle.dumps(stored))
        assert isinstance(again, Activations)
        np.testing.assert_array_equal(again["h"], stored["h"])
        again.close()


def test_results_come_back():
    x = np.ones((2, 3), "float32")
    study = ablation_study(network(), x, "h", lambda y: y[:, 0], verbose=0)
    zeros = prune(network_of_weights(), "d/kernel", sparsity=0.5).sparsity()
    for thing in (study, zeros, zeros[0]):
        assert not private(names_in(thing, 5))
        assert repr(pickle.loads(pickle.dumps(thing))) == repr(thing)


@pytest.mark.once
def test_saved_models_name_what_is_public(tmp_path):
    edited = edit_model(network(), {"h": sample[0].set(0.0)})
    for number, model in enumerate([edited, capture(edited, ["h"])]):
        path = tmp_path / f"{number}.keras"
        model.save(path)
        with zipfile.ZipFile(path) as file:
            config = json.loads(file.read("config.json"))
        assert not private(json.dumps(config).replace('"', " ").split())


METHODS = multiprocessing.get_all_start_methods()
OTHERS_ONCE = [
    pytest.param(name, marks=[] if name == "fork" else pytest.mark.once) for name in METHODS
]
EDIT = at[:, [0, 2]].where(X > 1.0).set(position(0) * 2.0) | at[..., 1].add(0.5)


def edited_twice(edit, x):
    return edit(x), edit(x)


def predicted(model, x):
    return model.predict(x, verbose=0)


@pytest.mark.parametrize("method", OTHERS_ONCE)
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_arrays_are_edited_in_other_processes(method):
    """Also forked ones, after the backend ran here: edits of arrays do not call it."""
    x = np.arange(12.0).reshape(4, 3)
    predicted(network(), x)
    expected = EDIT(x)
    with multiprocessing.get_context(method).Pool(1) as pool:
        for found in pool.apply_async(edited_twice, (EDIT, x)).get(timeout=120):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "fork"])
def test_an_edited_model_predicts_in_another_process(method):
    x = np.arange(12.0, dtype="float32").reshape(4, 3)
    edited = edit_model(network(), {"h": sample[1].set(X + 1.0)})
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply_async(predicted, (edited, x)).get(timeout=120)
    np.testing.assert_allclose(found, predicted(edited, x))
