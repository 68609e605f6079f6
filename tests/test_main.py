"""`python -m kedit`: it does what it says, and says so when it does not."""

import functools
import os
import runpy
import subprocess
import sys

import keras
import pytest
from _backend import ABSENT

import kedit
from kedit import __main__ as demo


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Everything, as a user runs it: the finished process, and the picture."""
    picture = tmp_path_factory.mktemp("demo") / "picture.png"
    return start("--seed", "1", "--out", str(picture), folder=picture.parent), picture


@pytest.fixture
def reader(monkeypatch):
    """The trained reader of digits is the same in every test: it is trained once."""
    monkeypatch.setattr(demo, "train_reader", train_reader)


train_reader = functools.cache(demo.train_reader)


def start(*arguments, folder, module="kedit", **environment):
    """Run `python -m kedit` in a process of its own."""
    source = os.path.dirname(os.path.dirname(kedit.__file__))
    path = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def numbers(table, what):
    """The last two numbers, before and after, of the row that begins so."""
    (row,) = [line for line in table.splitlines() if line.strip().startswith(what)]
    return tuple(float(word) for word in row.split()[-2:])


@pytest.mark.gradient
def test_shows_the_strategies(shown):
    process, picture = shown
    assert process.returncode == 0, process.stderr
    table = process.stdout
    assert table.count("Training") == 3
    assert f"Picture: {picture}" in table
    was, now = numbers(table, "image")
    assert was != now
    before, after = numbers(table, "most, of")
    assert after < demo.TOLERANCE < before
    before, after = numbers(table, "mean error")
    assert after == pytest.approx(before, rel=0.1)


@pytest.mark.gradient
def test_draws_a_picture(shown):
    _, picture = shown
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert picture.stat().st_size > 10_000


@pytest.mark.once
@pytest.mark.gradient
@pytest.mark.usefixtures("reader")
def test_one_strategy_quietly(tmp_path, capsys):
    arguments = ["--strategy", "activations", "--quiet", "--out", str(tmp_path / "picture.svg")]
    assert demo.main(arguments) == 0
    printed = capsys.readouterr()
    first, *table, last = printed.out.splitlines()
    assert first.startswith(f"kedit {kedit.__version__}")
    assert [line.split()[0] for line in table if line[0] != " "] == ["strategy", "activations"]
    assert last == f"Picture: {tmp_path / 'picture.svg'}"
    assert printed.err == ""
    assert "<svg" in (tmp_path / "picture.svg").read_text()


def double_all(threshold, factor):
    return kedit.layers.Editing(kedit.at[...].multiply(factor))


@pytest.mark.once
@pytest.mark.gradient
@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("strategy", "owner", "name", "broken", "message"),
    [
        ("inputs", demo, "ERASE", kedit.sample[3:5, 3:5].add(0.0), "no prediction has changed"),
        ("inputs", demo, "ERASE", kedit.sample[3:, 3:5].set(0.0), "not just the centre"),
        ("activations", kedit.layers, "ConditionalModifier", double_all, "below the threshold"),
        ("activations", demo, "FACTOR", 1.0, "no prediction has changed"),
        ("activations", demo, "THRESHOLD", 1e6, "0 of 11488 lie above the threshold"),
    ],
)
def test_says_what_a_strategy_did_not_do(
    strategy, owner, name, broken, message, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(owner, name, broken)
    out = str(tmp_path / "picture.png")
    assert demo.main(["--strategy", strategy, "--quiet", "--out", out]) == 1
    errors = capsys.readouterr().err
    assert f"Strategy '{strategy}' did not do what it claims" in errors
    assert message in errors


@pytest.mark.once
@pytest.mark.gradient
def test_says_that_a_weak_penalty_misses(monkeypatch, tmp_path, capsys):
    weak = functools.partial(weaken, kedit.losses.IndexPenalty)
    monkeypatch.setattr(kedit.losses, "IndexPenalty", weak)
    out = str(tmp_path / "picture.png")
    assert demo.main(["--strategy", "outputs", "--quiet", "--out", out]) == 1
    assert "50.0 was missed by 2" in capsys.readouterr().err  # 200 and some


def weaken(penalty, *arguments, weight, **options):
    return penalty(*arguments, weight=0.1, **options)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "missing/picture.png"], "a folder that exists"),
        (["--out", "picture"], "should end in"),
        (["--seed", "-1"], "--seed should be from 0"),
        (["--strategy", "guess"], "invalid choice"),
    ],
)
def test_refuses_options_before_training(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_says_that_a_backend_cannot_train(monkeypatch, capsys):
    def fit(*_):
        raise NotImplementedError("fit not implemented")

    monkeypatch.setattr(demo, "run", fit)
    assert demo.main(["--quiet"]) == 1
    assert "Set KERAS_BACKEND to another" in capsys.readouterr().err


@pytest.mark.once
@pytest.mark.parametrize("package", ["matplotlib.figure", "sklearn.datasets"])
def test_says_which_extra_is_missing(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it was not installed
    with pytest.raises(SystemExit, match=r'pip install "kedit\[demo\]"'):
        runpy.run_path(demo.__file__)


@pytest.mark.once
def test_says_which_backend_is_missing(tmp_path):
    process = start("--quiet", folder=tmp_path, KERAS_BACKEND=ABSENT)
    assert process.returncode == 1
    assert f"needs {ABSENT}, which is not installed" in process.stderr
    assert 'pip install "kedit[jax]"' in process.stderr


@pytest.mark.once
@pytest.mark.parametrize("version", ["2.15.0", "3.12.4"])
def test_says_which_keras_is_needed(version, monkeypatch):
    monkeypatch.setattr(keras, "__version__", version)
    with pytest.raises(ImportError, match=rf"needs Keras 3.13.*Received: Keras {version}.*upgrade"):
        runpy.run_path(kedit.__file__)


@pytest.mark.once
def test_says_which_backends_there_are(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "openvino")
    with pytest.raises(ImportError, match=r"Received: the backend 'openvino'.*KERAS_BACKEND=jax"):
        runpy.run_path(kedit.__file__)


@pytest.mark.once
def test_helps_without_a_backend(tmp_path):
    process = start("--help", folder=tmp_path, module="kedit_demo", KERAS_BACKEND=ABSENT)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: kedit-demo [-h] [--strategy")
    process = start("--quiet", folder=tmp_path, module="kedit_demo", KERAS_BACKEND=ABSENT)
    assert process.returncode == 1
    assert 'pip install "kedit[jax]"' in process.stderr
