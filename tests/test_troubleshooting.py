"""Whoever searches for the words of an error message finds them on one page."""

import importlib.util
import pathlib
import re

import keras
import numpy as np
import pytest

import kedit
from kedit import X, at, each, sample
from kedit.errors import EditError

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "troubleshooting.md"


def one_line(text):
    """Text as a reader sees it: without line breaks, and bars as they stand outside of tables."""
    return re.sub(r"\s+", " ", text.replace(r"\|", "|"))


def first_words(message):
    """The first constant words of a message, up to a value or to the end of a sentence."""
    pieces = [re.split(r"\. |\.$", piece)[0].strip(" `") for piece in message.split("…")]
    return next((piece for piece in pieces if len(piece.split()) > 1), None)


def script():
    spec = importlib.util.spec_from_file_location("messages", PAGE.with_name("messages.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def messages():
    """The first words of every message of kedit, as the sources have them."""
    found = [message for rows in script().messages().values() for message, _ in rows]
    return {words for message in found if (words := first_words(message))}


@pytest.mark.once
def test_every_message_is_on_the_page():
    """If not, run `python docs/messages.py`, and say more where the message does not suffice."""
    assert script().tables() in PAGE.read_text()
    assert len(script().messages()) > 10


@pytest.mark.once
def test_the_first_words_of_every_message_are_on_the_page():
    page = one_line(PAGE.read_text())
    found = messages()
    assert len(found) > 200
    assert [words for words in sorted(found) if words not in page] == []


def of_dtype(dtype):
    return at(np.zeros(3, dtype))[0]


CALLS = {
    "PositionError": [
        lambda: at(np.zeros(3))[5].set(1.0),
        lambda: at(np.zeros(3))[1.5],
        at(np.zeros((2, 3)))[[True, False, True]].get,
        lambda: at(np.zeros(3))[0, 0].set(1.0),
    ],
    "SliceError": [lambda: at[1.5:]],
    "BroadcastError": [at(np.zeros((2, 3)))[[0, 1], [0, 1, 2]].get],
    "ShapeError": [
        lambda: at(np.zeros(3))[:2].set([1.0, 2.0, 3.0]),
        lambda: at(np.zeros(3))[:2].apply(np.sum),
    ],
    "DTypeError": [
        lambda: of_dtype("bool").add(True),
        lambda: of_dtype("int32").divide(2),
        lambda: of_dtype("complex64").max(1.0),
        lambda: of_dtype("int32").power(-1),
        lambda: of_dtype("uint8").set(300),
        lambda: of_dtype("uint8").set(0.5),
    ],
    "CoordinateError": [
        lambda: kedit.layers.Editing(at[0].set(0.0)),
        lambda: at(np.zeros((2, 3)))[each([0, 1])].set(1.0),
    ],
    "OperandError": [
        lambda: assign(at(np.zeros(3))),
        lambda: np.sum(kedit.draft(np.zeros(3))),
        lambda: at[0].set(0.0)({"image": np.zeros(3)}),
        lambda: at[0].set(0.0)({}),
        lambda: bool(X > 0),
        lambda: at.where(X > 0).where(X < 1),
        lambda: at.where(X > 0).get(),
        lambda: kedit.layers.Editing(sample[2].get()),
        lambda: kedit.losses.IndexPenalty(2),
    ],
    "OperationError": [lambda: at(np.zeros(3)).set(1.0), lambda: at[0].mul(2.0)],
    "SavingError": [
        lambda: at[0].apply(lambda x: x).get_config(),
        lambda: kedit.Edit.from_config({"op": "set"}),
    ],
}


@pytest.mark.once
@pytest.mark.parametrize("name", CALLS)
def test_messages_that_are_raised_are_on_the_page(name):
    page, known = one_line(PAGE.read_text()), messages()
    for call in CALLS[name]:
        with pytest.raises(EditError) as raised:
            call()
        message = str(raised.value)
        assert type(raised.value).__name__ == name, message
        assert any(words in message and words in page for words in known), message


def assign(x):
    x[0] = 1.0


@pytest.mark.tensors
@pytest.mark.parametrize(
    "call",
    [
        assign,
        lambda x: assign(keras.Variable(np.zeros(3))),
        lambda x: assign(np.broadcast_to(0.0, 3)),
        lambda x: x[x > 0],
        np.asarray,
        bool,
        list,
    ],
)
def test_messages_of_others_are_titles(call):
    """Those that are the same on every backend, for a tensor of a model."""
    titles = re.findall("^### (.*)$", PAGE.read_text(), re.M)
    words = [part for title in titles for part in re.findall("`+ ?(.+?) ?`+", title)]
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as raised:
        call(keras.Input((3,)))
    assert any(len(part) > 15 and part in str(raised.value) for part in words), raised.value
