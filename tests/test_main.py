"""`python -m kedit`: it does what it says, and says so when it does not."""

import functools
import importlib.util
import os
import runpy
import subprocess
import sys

import keras
import pytest

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


def start(*arguments, folder, **environment):
    """Run `python -m kedit` in a process of its own."""
    source = os.path.dirname(os.path.dirname(kedit.__file__))
    path = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "kedit", *arguments],
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


@pytest.fixture
def choice(monkeypatch, tmp_path):
    """The choice of a backend where nobody said one, and Keras is not configured."""
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return importlib.import_module("kedit._backend_choice")


@pytest.mark.once
@pytest.mark.parametrize("place", [0, 1, 2])
def test_chooses_the_backend_that_is_installed(choice, place, monkeypatch):
    installed = choice.BACKENDS[place]
    monkeypatch.setattr(choice, "is_installed", lambda backend: backend == installed)
    choice.choose()
    assert os.environ["KERAS_BACKEND"] == installed


@pytest.mark.once
def test_chooses_the_backend_that_keras_is_configured_for(choice, monkeypatch, tmp_path):
    monkeypatch.setattr(choice, "is_installed", lambda backend: True)
    *_, last = choice.BACKENDS
    (tmp_path / "keras.json").write_text(f'{{"backend": "{last}"}}')
    choice.choose()
    assert os.environ["KERAS_BACKEND"] == last


@pytest.mark.once
def test_leaves_the_backend_that_was_said(choice, monkeypatch):
    monkeypatch.setattr(choice, "is_installed", lambda backend: True)
    monkeypatch.setenv("KERAS_BACKEND", "said")
    choice.choose()
    assert os.environ["KERAS_BACKEND"] == "said"


@pytest.mark.once
@pytest.mark.parametrize("said", ["", "said"])
def test_says_which_backend_to_install(choice, said, monkeypatch):
    monkeypatch.setattr(choice, "is_installed", lambda backend: False)
    monkeypatch.setenv("KERAS_BACKEND", said)
    with pytest.raises(SystemExit, match=r'pip install "kedit\['):
        choice.choose()


@pytest.mark.once
def test_a_mere_folder_is_no_backend(choice, monkeypatch, tmp_path):
    (tmp_path / "mere_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("mere_folder") is not None
    assert not choice.is_installed("mere_folder")


@pytest.mark.once
@pytest.mark.parametrize(
    ("given", "now", "starting"),
    [
        (["python", "-m", "kedit"], ["-m"], True),
        (["python", "-W", "error", "-m", "kedit", "--seed", "1"], ["-m", "--seed", "1"], True),
        (["python", "-m", "trainer", "kedit"], ["-m", "kedit"], False),
        (["python", "train.py", "-m", "kedit"], ["train.py", "-m", "kedit"], False),
        (["python"], [""], False),
    ],
)
def test_only_the_program_chooses(choice, given, now, starting, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", given)
    monkeypatch.setattr(sys, "argv", now)
    assert choice.is_starting() == starting


def test_the_running_backend_is_installed(choice):
    assert choice.is_installed(keras.backend.backend())


@pytest.mark.once
@pytest.mark.gradient
def test_runs_where_no_backend_is_said(choice, tmp_path):
    process = start("--strategy", "outputs", "--quiet", folder=tmp_path, KERAS_BACKEND="")
    assert process.returncode == 0, process.stderr
    backend = process.stdout.splitlines()[0].split()[-1]
    assert choice.is_installed(backend)
    assert (tmp_path / "kedit-demo.png").exists()


@pytest.mark.once
def test_names_the_backend_that_is_not_installed(choice, tmp_path):
    process = start(folder=tmp_path, KERAS_BACKEND="said")
    assert process.returncode == 1
    assert process.stderr.startswith(
        "KERAS_BACKEND should be an installed backend. Received: 'said'"
    )
