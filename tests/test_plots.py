"""Pictures of edits, by what was drawn, and edits and results as HTML."""

import re
import sys

import keras
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from keras import ops

from kedit import EditSequence, Trainable, X, at, draft, sample
from kedit.errors import EditError, OperandError
from kedit.interventions import ablation_study, patching_study, sites
from kedit.studies import Counterfactual, ablate, sweep

NAN, INF = float("nan"), float("inf")
X34 = np.arange(12.0).reshape(3, 4)


@pytest.fixture(autouse=True)
def closed():
    with mpl.rc_context({"backend": "Agg"}):
        yield
    plt.close("all")


def rendered(axes):
    """The axes, after everything was drawn without a warning."""
    axes[0].figure.canvas.draw()
    for ax in axes:
        assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
        for image in ax.images:
            assert np.isfinite(image.get_clim()).all()
    return axes


def shown(ax):
    """The numbers in an image, with NaN where none is drawn to scale."""
    return np.ma.filled(ax.images[0].get_array().astype(float), NAN)


def titles(axes):
    return [ax.get_title() for ax in axes]


def test_an_image_before_and_after_and_what_changed():
    x = ops.convert_to_tensor(X34.astype("float32"))
    axes = rendered(at[1:, ::2].set(9.0).plot(x))
    assert titles(axes) == ["before", "after", "changed: 4 of 12"]
    assert axes[0].figure.get_suptitle() == "at[1:, ::2].set(9.0)"
    after = X34.copy()
    after[1:, ::2] = 9.0
    np.testing.assert_array_equal(shown(axes[0]), X34)
    np.testing.assert_array_equal(shown(axes[1]), after)
    np.testing.assert_array_equal(shown(axes[2]), np.where(after != X34, after - X34, NAN))
    assert axes[0].images[0].get_clim() == axes[1].images[0].get_clim() == (0.0, 11.0)
    assert axes[2].images[0].get_clim() == (-5.0, 5.0)
    np.testing.assert_array_equal(ops.convert_to_numpy(x), X34)


def test_a_line_and_marks():
    x = np.array([0.0, 1.0, 2.0, NAN, -INF])
    axes = rendered((at[1].set(5.0) | at[2].set(INF) | at[4].set(0.0)).plot(x))
    assert titles(axes) == ["before", "after", "changed: 3 of 5"]
    line, nan, low = axes[0].lines
    np.testing.assert_array_equal(line.get_ydata().filled(NAN), [0.0, 1.0, 2.0, NAN, NAN])
    assert (nan.get_label(), low.get_label()) == ("NaN", "-inf")
    assert (nan.get_xdata().tolist(), low.get_xdata().tolist()) == ([3], [4])
    assert [line.get_label() for line in axes[1].lines[1:]] == ["NaN", "inf"]
    marks = np.ma.filled(axes[2].collections[1].get_offsets(), NAN)
    assert marks[0].tolist() == [1.0, 4.0]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert axes[2].get_ylim() == pytest.approx((-4.4, 4.4))


def test_slices_that_change():
    x = np.zeros((2, 3, 4, 5))
    one = rendered(at[1, 2, :, 0].set(1.0).plot(x))
    assert titles(one) == ["before [1, 2, :, :]", "after [1, 2, :, :]", "changed: 4 of 20"]
    assert one[0].figure.get_suptitle().endswith("\nslices that change: 1 of 6")
    all_of_them = rendered(at[..., 0].set(1.0).plot(x))
    assert len(all_of_them) == 9
    assert all_of_them[6].get_title() == "before [0, 2, :, :]"
    assert all_of_them[0].figure.get_suptitle().endswith("slices that change: 6 of 6, 3 shown")
    none = rendered(at[0].set(0.0).plot(x))
    assert none[0].get_title() == "before [0, 0, :, :]"
    assert none[0].figure.get_suptitle().endswith("slices that change: 0 of 6")


@pytest.mark.parametrize(
    ("edit", "x", "count"),
    [
        (at[()].set(9.0), 2.0, "1 of 1"),
        (at[()].set(9), np.int32(9), "0 of 1"),
        (at[0].set(1 + 2j), np.ones((2, 2), "complex64"), "2 of 4"),
        (at[0].set(True), np.zeros((3, 2), bool), "2 of 6"),
        (at[0].set(False), np.array([True, True]), "1 of 2"),
        (at[0].set(2**60 + 1), np.full((2, 2), 2**60), "2 of 4"),
        (at[0].set(255), np.zeros((2, 2), "uint8"), "2 of 4"),
        (at[...].set(1.0), np.zeros((0, 3)), "0 of 0"),
        (at[...].set(1.0), np.zeros((2, 0, 3)), "0 of 0"),
        (at[...].set(1.0), np.zeros(0), "0 of 0"),
        (at[0].set(NAN), np.array([NAN, 1.0]), "0 of 2"),
        (at[0].set(NAN), np.full((2, 2), NAN), "0 of 4"),
        (at[0].set(complex(NAN, 1)), np.full(2, complex(NAN, 0)), "1 of 2"),
        (at[0].set(-0.0), np.zeros((2, 2)), "0 of 4"),
        (at[0].set(1e308) | at[1].set(-1e308), np.zeros((2, 2)), "4 of 4"),
        (at[0].set(1e308), np.full(2, -1e308), "1 of 2"),
        (at[0].set(-INF), np.array([[INF, -INF]]), "1 of 2"),
        (at[2].set(1.0), [0.0, 0.1, 0.2], "1 of 3"),
        (at[5, 5].set(1.0), np.zeros((100, 80)), "1 of 8000"),
        (at[5].set(1.0), np.zeros(1000), "1 of 1000"),
        (at[0, 5].set(1.0), np.zeros((1, 90)), "1 of 90"),
        (EditSequence(), np.zeros(3), "0 of 3"),
    ],
    ids=repr,
)
def test_whatever_can_be_edited_can_be_drawn(edit, x, count):
    axes = rendered(edit.plot(x))
    assert len(axes) == 3
    assert axes[2].get_title().startswith(f"changed: {count}")


def test_complex_numbers_say_how_they_are_drawn():
    axes = at[0].set(3 + 4j).plot(np.zeros((2, 2), "complex64"))
    assert all("(absolute value)" in title for title in titles(axes))
    assert shown(axes[1]).tolist() == [[5.0, 5.0], [0.0, 0.0]]


def test_large_integers_that_floats_do_not_tell_apart():
    axes = at[0].set(2**60 + 1).plot(np.full((2, 1), 2**60))
    assert shown(axes[2])[0] == 1.0


def test_what_is_not_finite_is_drawn_over_an_image():
    x = np.array([[NAN, 1.0], [INF, -INF]])
    axes = rendered(at[0, 0].set(0.0).plot(x))
    over = axes[0].images[1]
    assert over.get_array().filled(-1).tolist() == [[0, -1], [1, 2]]
    colors = over.to_rgba(np.array([0, 1, 2]))
    assert len({tuple(color) for color in colors}) == 3
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["NaN", "inf", "-inf"]
    assert len(axes[2].images) == 2  # from NaN to 0: no difference


@pytest.mark.tensors
def test_tensors_in_the_edit_and_narrow_floats():
    index = ops.convert_to_tensor([0, 2])
    axes = rendered(at[index].set(1.0).plot([0.1, 0.2, 0.3]))
    assert axes[2].get_title() == "changed: 2 of 3"
    narrow = ops.cast(ops.convert_to_tensor(X34), "bfloat16")
    assert rendered(at[0, 0].set(1.5).plot(narrow))[2].get_title() == "changed: 1 of 12"
    variable = keras.Variable(X34)
    assert rendered(at[0, 0].set(1.5).plot(variable))[2].get_title() == "changed: 1 of 12"


def test_one_array_of_a_batch():
    batch = ({"image": X34, "name": np.zeros(3)}, np.zeros(3))
    edit = at[0].add(1.0).on("image")
    np.testing.assert_array_equal(shown(edit.plot(batch)[0]), X34)
    np.testing.assert_array_equal(shown(edit.plot(batch[0])[0]), X34)
    assert at[0].set(1.0).on(part="y").plot(batch)[2].get_title() == "changed: 1 of 3"
    both = (edit | at[1].add(1.0).on("image")).plot(batch)
    assert both[2].get_title() == "changed: 8 of 12"


@pytest.mark.parametrize(
    ("edit", "x", "words"),
    [
        (at[0].get(), X34, "changes elements"),
        (at[0].set(1.0), {"a": X34}, r"`x` should be one array.*Write `edit.on\('a'\).plot\(x\)`"),
        (at[0].set(1.0), (X34, X34), r"`x` should be one array.*Write `edit.plot\(x\[0\]\)`"),
        (at[0].set(1.0), [X34, X34], "`x` should be one array"),
        (at[0].set(1.0), keras.KerasTensor((2, 3)), "`x` should be a tensor that has values"),
        (at[0].set(1.0).on("a"), {"b": X34}, "with that path"),
        (at[0].set(1.0).on("a") | at[0].set(1.0), {"a": X34}, "edits of one array"),
        (at[0].set(Trainable(1.0)), X34, "Trainable"),
        (at[9].set(1.0), X34, "Received"),
        (at[0].set(1.0), draft(X34), "Write `d.value`"),
        (at[0].set(1.0), np.array(["a", "b"]), "Received"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_drawn(edit, x, words):
    with pytest.raises(EditError, match=words):
        edit.plot(x)
    assert not plt.get_fignums()


def test_axes_that_are_given():
    figure, given = plt.subplots(2, 3)
    axes = rendered(at[..., 0].set(NAN).plot(np.zeros((4, 2, 3)), given))
    assert axes.tolist() == given.ravel().tolist()
    assert axes[3].get_title() == "before [1, :, :]"
    assert (
        axes[0].get_title("left")
        == "at[..., 0].set(float('nan'))\nslices that change: 4 of 4, 2 shown\n"
    )
    assert figure.get_suptitle() == ""
    (row,) = plt.subplots(1, 3, squeeze=False)[1]
    assert at[0].set(1.0).plot(np.zeros(2), row)[2] is row[2]
    for wrong in (given[0, 0], given[:, :2], given):
        with pytest.raises(OperandError, match="`ax` should be 3 axes"):
            at[0].set(1.0).plot(np.zeros(2), wrong)


def test_a_long_title_is_shortened():
    edit = at[list(range(500))].set(1.0)
    title = edit.plot(np.zeros(500))[0].figure.get_suptitle()
    assert len(title) <= 70
    assert title.startswith("at[[0, 1")
    assert title.endswith(".set(1.0)")


def test_plot_without_matplotlib_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "kedit\[plot\]"'):
        at[0].set(1.0).plot(np.zeros(2))


# --- HTML ----------------------------------------------------------------------------------------


def cells(html):
    """The texts of a table, by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


IN_WORDS = {
    at[0, 2].set(100.0): "Sets the elements at `[0, 2]` to `100.0`.",
    sample[3].add(0.5): "Adds `0.5` to the elements at `[3]` of every sample.",
    at[...].subtract(1): "Subtracts `1` from all elements.",
    sample.where(X > 0).multiply(2): (
        "Multiplies the elements of every sample where `X &gt; 0` by `2`."
    ),
    at[0].divide(2.0): "Divides the elements at `[0]` by `2.0`.",
    at[0].power(2): "Raises the elements at `[0]` to the power `2`.",
    at[0].min(2): "Limits the elements at `[0]` to at most `2`.",
    at[0].max(2): "Limits the elements at `[0]` to at least `2`.",
    at[0].apply(abs): "Applies `abs` to the elements at `[0]`.",
    at[1:].get(): "Reads the elements at `[1:]`.",
    at.where(X < 1).set(X + 1, otherwise=0): (
        "Sets all elements to `X + 1` where `X &lt; 1`, and to `0` elsewhere."
    ),
    at[0].set(1).on("a/b", part="y"): "In `a/b` of `y`, sets the elements at `[0]` to `1`.",
}


@pytest.mark.once
@pytest.mark.parametrize(("edit", "words"), IN_WORDS.items(), ids=repr)
def test_an_edit_in_words(edit, words):
    code, said = edit._repr_html_().split("<br>")
    assert said == re.sub("`(.*?)`", r"<code>\1</code>", words)
    assert code.startswith("<code>")


@pytest.mark.once
def test_html_is_escaped_and_short():
    html = at[0].set(1.0).on("<script>&")._repr_html_()
    assert "<script>" not in html
    assert html.count("&lt;script&gt;&amp;") == 2
    assert len(at[np.arange(5000)].set(np.arange(5000.0))._repr_html_()) < 1500
    both = at[0].set(1.0) | at.where(X > 1).set(0.0)
    assert both._repr_html_().count("<li>") == 2
    assert both._repr_html_().startswith("<ol>")
    many = EditSequence(*[at[n].set(1.0) for n in range(50)])._repr_html_()
    assert many.count("<li>") == 20
    assert many.endswith("<p>… 30 more</p>")


@pytest.mark.once
def test_sites_in_a_notebook():
    layers = [keras.layers.Dense(2, name=f"d{number}") for number in range(25)]
    found = sites(keras.Sequential([keras.Input((3,)), *layers]))
    html = found._repr_html_()
    header, first, *rest = cells(html)
    assert header == ["address", "layer", "name", "input", "output", "calls"]
    assert first == ["d0", "Dense", "", "(None, 3)", "(None, 2)", "1"]
    assert len(rest) == 19
    assert "25 layers that can be edited" in html
    assert html.endswith("<p>… 5 more</p>")
    assert repr(found).splitlines()[1].startswith("d0")


@pytest.mark.once
def test_studies_in_a_notebook():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2.0, name="h")])
    x = np.ones((2, 3))
    found = sweep(model, x, sample[0], [5.0, 6.0], verbose=0)
    assert cells(found._repr_html_())[1:] == [["5", "[10, 2, 2]"], ["6", "[12, 2, 2]"]]
    assert cells(ablate(model, x, verbose=0)._repr_html_())[1] == ["0", "[2, 0, 0]"]
    units = ablation_study(model, x, "h", lambda y: y[:, 1], verbose=0)
    assert cells(units._repr_html_())[1:] == [["h[1]", "2"], ["h[0]", "0"], ["h[2]", "0"]]
    wide = keras.Sequential([keras.Input((20, 1)), keras.layers.Rescaling(2.0, name="h")])
    patched = patching_study(
        wide, np.ones((1, 20, 1)), np.zeros((1, 20, 1)), "h", lambda y: y[:, 0, 0], verbose=0
    )
    header, row = cells(patched._repr_html_())
    assert header[:3] == ["site", "0", "1"]
    assert header[-1] == row[-1] == "… 9 more"
    assert row[:3] == ["h", "1", "0"]
    zeros = np.zeros((2, 3))
    result = Counterfactual(
        zeros, np.eye(2, 3), zeros[:, :1], np.ones((2, 1)), np.array([True, False])
    )
    assert cells(result._repr_html_())[2] == ["1", "[0]", "[1]", "no", "1"]
    assert "Target reached by 1 of 2 samples" in result._repr_html_()
