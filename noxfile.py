"""The matrix: the same tests on every backend, each in an environment of its own."""

import os
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
DIFFERENTIATING = ("tensorflow", "jax", "torch")
CARRIERS = ("tensorflow-cpu", "jax", "torch", "grain", "datasets", "captum")
KERAS_HUB = ("keras-hub", "kagglehub", "kagglesdk", "regex", "tokenizers", "sentencepiece")
MODELS = Path(".nox", "models").absolute()


def group(name):
    return nox.project.dependency_groups(PROJECT, name)


def run_pytest(session, backend, *arguments, packages=(), **environment):
    packages = packages or (PACKAGES[backend],)
    session.install(*CONSTRAINTS, *packages, *group("tests"), "-e", ".[demo]")
    MODELS.mkdir(parents=True, exist_ok=True)
    environment |= {
        "KERAS_BACKEND": backend,
        "KEDIT_MODELS": str(MODELS),  # a model saved on one backend is loaded on the others
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "MPLBACKEND": "Agg",
    }
    marks = (
        []
        if backend in DIFFERENTIATING
        else ["-m", "not gradient and not tensors and not carriers"]
    )
    session.run("python", "-m", "pytest", "-n", "2", *marks, *arguments, env=environment)


@nox.session
@nox.parametrize("backend", list(PACKAGES))
def tests(session, backend):
    """Values, gradients, examples: eager and compiled; on NumPy, which has neither, values."""
    run_pytest(session, backend, *session.posargs)


@nox.session
def carriers(session):
    """The same edits in everything that carries data, in one environment that holds it all."""
    for backend in DIFFERENTIATING:
        # KerasHub would bring TensorFlow with CUDA, for tokenizers that no test has.
        session.install(*CONSTRAINTS, "--no-deps", *KERAS_HUB)
        files = ("tests/test_carriers.py", "tests/test_generation.py")
        only = (*files, "-m", "carriers", *session.posargs)
        run_pytest(session, backend, *only, packages=CARRIERS)


@nox.session
@nox.parametrize("backend", list(PACKAGES))
def properties(session, backend):
    """A long search for counterexamples; after `--` the number of examples and KEDIT_SEED."""
    examples, seed = (*session.posargs, *("100000", "0")[len(session.posargs) :])
    run_pytest(
        session, backend, "tests/test_properties.py", KEDIT_EXAMPLES=examples, KEDIT_SEED=seed
    )


@nox.session
@nox.parametrize("backend", DIFFERENTIATING)
def bench(session, backend):
    """Time every workload beside the native spelling; arguments after `--` as of the script."""
    session.install(*CONSTRAINTS, PACKAGES[backend], "-e", ".")
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    session.run("python", "benchmarks/run.py", *session.posargs, env=environment)


@nox.session
def lint(session):
    """Style, types, and the floors of the house."""
    session.install(*CONSTRAINTS, *group("lint"), "keras", "jax", "-e", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("lint-imports", env={"KERAS_BACKEND": "numpy"})


@nox.session
def build(session):
    """The wheel, installed into an environment that holds nothing else, does the main job."""
    session.install("build")
    wheels = Path(session.create_tmp()).absolute()
    for old in wheels.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(wheels))
    (wheel,) = wheels.glob("*.whl")
    empty = wheels / "empty"
    session.run("python", "-m", "venv", "--clear", str(empty))
    python = str(empty / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run(
        python, "-m", "pip", "install", "--quiet", *CONSTRAINTS, f"{wheel}[jax,demo]", external=True
    )
    session.chdir(wheels)  # away from the sources
    session.run(python, "-m", "kedit", "--quiet", env={"KERAS_BACKEND": "jax"}, external=True)
