"""The matrix: the same tests on every backend, each in an environment of its own."""

import os
import secrets
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "tests", "carriers", "build"]

PROJECT = nox.project.load_toml("pyproject.toml")
CONSTRAINTS = ["--constraint", "constraints.txt"]
# What a backend needs. TensorFlow without CUDA; Keras's NumPy backend borrows from JAX.
PACKAGES = {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch", "numpy": "jax"}
# JAX comes last: NumPy's tests run after it, and load the models that all others have saved.
DIFFERENTIATING = ("tensorflow", "torch", "jax")
# Not tests of what a backend has not; and those that are the same on all run on JAX alone.
SELECTED = {
    "tensorflow": "not once",
    "jax": "not brief",
    "torch": "not once",
    "numpy": "not once and not gradient and not tensors",
}
# Marks of tests that need an environment of their own.
APART = ("carriers", "models", "peers", "beyond", "distribution", "export")
CARRIERS = ("tensorflow-cpu", "jax", "torch", "grain", "datasets", "captum")
KERAS_HUB = ("keras-hub", "kagglehub", "kagglesdk", "regex", "tokenizers", "sentencepiece")
ENGINES = ("ray", "dask", "apache-beam", "pyspark", "pandas", "pyarrow")  # Spark needs Java
MODELS = Path(".nox", "models").absolute()
# What `versions` runs of the tests: edits of tensors, in models and in files, and each function of
# Keras that kedit calls. It takes some minutes.
SELECTION = (
    "tests/test_edit.py",
    "tests/test_ops.py",
    "tests/test_layers.py",
    "tests/test_losses.py",
    "tests/test_saving.py",
    "tests/test_edited_model.py",
    "README.md",
    # The faults of Keras are those of one version.
    "--deselect=tests/test_ops.py::test_keras_still_errs",
    "--deselect=tests/test_ops.py::test_what_is_said_to_differ_differs",
)
OLDEST = ("keras==3.13.0", "numpy==2.0.0")
COLAB = ("keras==3.13.2", "numpy==2.1.3")
NEWEST = ("keras", "numpy")
NIGHTLY = ("keras-nightly", "numpy")
# What people have, by name: the Python, the backend, the packages, and why these. The oldest of
# everything come together, and so do the newest; what is not named is the newest that fits.
VERSIONS = {
    "jax-oldest": ("3.11", "jax", (*OLDEST, "jax==0.5.0"), "the oldest"),
    "jax-colab": ("3.13", "jax", (*COLAB, "jax==0.7.2"), "as in Google Colab"),
    "jax-newest": ("3.13", "jax", (*NEWEST, "jax"), "the newest"),
    "jax-python": ("3.14", "jax", (*NEWEST, "jax"), "the newest Python"),
    "jax-nightly": ("3.12", "jax", (*NIGHTLY, "jax"), "the next Keras"),
    "tensorflow-oldest": (
        *("3.11", "tensorflow", (*OLDEST, "tensorflow-cpu==2.20.0")),
        "the oldest",
    ),
    "tensorflow-colab": (
        *("3.13", "tensorflow", (*COLAB, "tensorflow-cpu==2.20.0")),
        "as in Google Colab",
    ),
    "tensorflow-newest": ("3.13", "tensorflow", (*NEWEST, "tensorflow-cpu"), "the newest"),
    "tensorflow-nightly": ("3.12", "tensorflow", (*NIGHTLY, "tensorflow-cpu"), "the next Keras"),
    "torch-oldest": (
        *("3.11", "torch", ("keras==3.15.0", OLDEST[1], "torch==2.13.0")),
        "the oldest Keras that `torch.compile` reads",
    ),
    "torch-nightly": ("3.11", "torch", (*NIGHTLY, "torch==2.13.0"), "the next Keras"),
}
# On JAX every operation is compiled for every shape: what one process compiles others may load.
JAX_CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(Path(".nox", "compiled").absolute()),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def group(name):
    return nox.project.dependency_groups(PROJECT, name)


def install(session, *packages):
    session.install(*CONSTRAINTS, *packages, *group("tests"), "-e", ".[demo]")


def run_pytest(session, backend, *arguments, marked=None, **environment):
    MODELS.mkdir(parents=True, exist_ok=True)
    environment |= {
        "KERAS_BACKEND": backend,
        "KEDIT_MODELS": str(MODELS),  # a model saved on one backend is loaded on the others
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "MPLBACKEND": "Agg",
        **JAX_CACHE,
    }
    marked = marked or " and ".join([f"not {mark}" for mark in APART])
    marks = ["-m", f"{marked} and {SELECTED[backend]}"]
    options = ["-n", "2", "--dist", "worksteal", "--durations", "10", *marks]
    session.run("python", "-m", "pytest", *options, *arguments, env=environment)


@nox.session
@nox.parametrize("backend", DIFFERENTIATING)
def tests(session, backend):
    """Values, gradients, examples: eager and compiled; on NumPy, which has neither, values."""
    install(session, PACKAGES[backend])
    # What XLA compiles for JAX is compiled in less time here, and TensorFlow's XLA as for users.
    run_pytest(session, backend, *session.posargs, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    if PACKAGES["numpy"] == PACKAGES[backend]:
        run_pytest(session, "numpy", *session.posargs)


@nox.session
def carriers(session):
    """The same edits in everything that carries data, in one environment that holds it all."""
    # KerasHub would bring TensorFlow with CUDA, for tokenizers that no test has.
    session.install(*CONSTRAINTS, "--no-deps", *KERAS_HUB)
    install(session, *CARRIERS)
    files = (
        "tests/test_carriers.py",
        "tests/test_generation.py",
        "tests/test_attention_in_kerashub.py",
    )
    for backend in DIFFERENTIATING:
        run_pytest(session, backend, *files, *session.posargs, marked="carriers")


@nox.session
def models(session):
    """Twelve `keras.applications` and eight families of KerasHub, named, captured and edited."""
    session.install(*CONSTRAINTS, "--no-deps", *KERAS_HUB)
    install(session, *CARRIERS)
    for backend in DIFFERENTIATING:
        run_pytest(session, backend, "tests/test_real_models.py", *session.posargs, marked="models")


@nox.session
def beyond(session):
    """Edits in engines that carry data to other processes."""
    install(session, PACKAGES["jax"], *ENGINES)
    run_pytest(session, "jax", "tests/test_beyond.py", *session.posargs, marked="beyond")


# What exports a model from a backend, and what runs the result.
EXPORTERS = {
    "tensorflow": ("tf2onnx", "onnx", "onnxruntime", "openvino"),
    "torch": ("onnx", "onnxruntime", "onnxscript", "openvino"),
    "jax": ("tensorflow-cpu",),
}


@nox.session
@nox.parametrize("backend", DIFFERENTIATING)
def export(session, backend):
    """Exported models, compared with what they were made of; the outcome goes into the guide."""
    install(session, PACKAGES[backend], *EXPORTERS[backend])
    results = str(Path(session.create_tmp()).absolute() / f"{backend}.xml")
    options = ["--junitxml", results, *session.posargs]
    run_pytest(session, backend, "tests/test_export.py", *options, marked="export")
    if not session.posargs:
        session.run("python", "docs/export.py", results, env={"KERAS_BACKEND": backend})


@nox.session
def peers(session):
    """The same interventions by other libraries, on equal weights."""
    install(session, PACKAGES["torch"], "nnsight")
    run_pytest(session, "torch", "tests/test_peers.py", *session.posargs, marked="peers")


@nox.session
@nox.parametrize("backend", DIFFERENTIATING)
def distribution(session, backend):
    """Several devices, which one CPU pretends to be, and several processes."""
    install(session, PACKAGES[backend])
    devices = "--xla_force_host_platform_device_count=8"
    file = f"tests/test_distribution_{backend}.py"
    run_pytest(session, backend, file, *session.posargs, marked="distribution", XLA_FLAGS=devices)


@nox.session
@nox.parametrize("backend", list(PACKAGES))
def properties(session, backend):
    """A long search for counterexamples; after `--` the number of examples and KEDIT_SEED."""
    given = session.posargs
    examples, seed = (*given, *("100000", str(secrets.randbelow(2**32)))[len(given) :])
    session.log(f"To search here again: nox -s {session.name!r} -- {examples} {seed}")
    install(session, PACKAGES[backend])
    run_pytest(
        session, backend, "tests/test_properties.py", KEDIT_EXAMPLES=examples, KEDIT_SEED=seed
    )


@nox.session
@nox.parametrize("python,row", [nox.param(row[0], name, id=name) for name, row in VERSIONS.items()])
def versions(session, row):
    """Write into the documentation which versions work; after `--` other tests, for no table."""
    _, backend, packages, reason = VERSIONS[row]
    session.install(*packages, *group("tests"), "-e", ".")
    if "keras-nightly" in packages:  # it is the same module as what it takes the place of
        session.run("python", "-m", "pip", "uninstall", "--yes", "--quiet", "keras")
        session.install("--force-reinstall", "--no-deps", "--pre", "keras-nightly")
    # As in `tests`; but with code of the cache, JAX 0.5.0 computes wrong numbers.
    environment = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    if session.posargs:
        return run_pytest(session, backend, *session.posargs, **environment)
    report = str(Path(session.create_tmp(), f"{row}.xml").absolute())
    try:
        return run_pytest(session, backend, *SELECTION, f"--junitxml={report}", **environment)
    finally:
        session.run("python", "docs/versions.py", row, backend, reason, report)


@nox.session
@nox.parametrize("backend", DIFFERENTIATING)
def bench(session, backend):
    """Time every workload beside the native spelling; arguments after `--` as of the script."""
    session.install(*CONSTRAINTS, PACKAGES[backend], "-e", ".")
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    session.run("python", "benchmarks/run.py", *session.posargs, env=environment)


@nox.session
@nox.parametrize("backend", list(PACKAGES))
def conformance(session, backend):
    """Write into the documentation which libraries edit tensors as NumPy does."""
    session.install(*CONSTRAINTS, PACKAGES[backend], *group("conformance"), "-e", ".")
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    session.run("python", "docs/conformance.py", *session.posargs, env=environment)


@nox.session
def lint(session):
    """Style, types, and the floors of the house."""
    session.install(*CONSTRAINTS, *group("lint"), "keras", "jax", "-e", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("pyright", "tests/types_of_edits.py")
    session.run("lint-imports", env={"KERAS_BACKEND": "numpy"})


@nox.session
def docs(session):
    """The documentation site, in `docs/_build/html`; warnings are errors."""
    session.install(*CONSTRAINTS, *group("docs"), PACKAGES["jax"], "-e", ".[plot]")
    options = ["-W", "--keep-going", "-b", "html", *session.posargs]
    session.run(
        *("python", "-m", "sphinx", *options, "docs", "docs/_build/html"),
        env={"KERAS_BACKEND": "jax"},
    )


def built(session):
    """An empty folder, and in it the wheel and the sdist."""
    files = Path(session.create_tmp()).absolute()
    for old in files.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    session.run("python", "-m", "build", "--outdir", str(files))
    (wheel,), (sdist,) = files.glob("*.whl"), files.glob("*.tar.gz")
    return files, wheel, sdist


@nox.session
def package(session):
    """The files for a package index: their metadata, what they hold, and the tests of the sdist."""
    session.install(*CONSTRAINTS, *group("package"))
    files, wheel, sdist = built(session)
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    session.run("check-wheel-contents", str(wheel))
    session.run("python", "-m", "tarfile", "-e", str(sdist), str(files))
    unpacked = str(sdist).removesuffix(".tar.gz")
    with session.chdir(unpacked):
        session.install(*CONSTRAINTS, *group("tests"), PACKAGES["jax"], ".[demo]")
        run_pytest(session, "jax", *session.posargs)


@nox.session
def build(session):
    """The wheel, installed into an environment that holds nothing else, does the main job."""
    session.install("build")
    files, wheel, _ = built(session)
    empty = files / "empty"
    session.run("python", "-m", "venv", "--clear", str(empty))
    python = str(empty / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run(
        python, "-m", "pip", "install", "--quiet", *CONSTRAINTS, f"{wheel}[jax,demo]", external=True
    )
    session.chdir(files)  # away from the sources
    session.run(python, "-m", "kedit", "--quiet", env={"KERAS_BACKEND": "jax"}, external=True)
