"""Write the result of one row of `nox -s versions` into `reference/versions.md`.

python docs/versions.py ROW BACKEND REASON REPORT

`REPORT` is what pytest has written with `--junitxml`. Each run keeps what it finds in `versions/`,
a file for each row, and writes the table of all of them.
"""

import contextlib
import importlib.metadata
import json
import pathlib
import platform
import sys
from xml.etree import ElementTree

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "versions"
PAGE = HERE / "reference" / "versions.md"
START, END = "<!-- versions: start -->", "<!-- versions: end -->"
TITLES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
PACKAGES = {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch"}


def installed(*packages):
    """The version of the first of some packages that is installed."""
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    raise importlib.metadata.PackageNotFoundError(packages[-1])


def result(row, backend, reason, report):
    """What was run and what came of it."""
    (suite,) = ElementTree.parse(report).getroot()
    tests, *others = [int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")]
    return {
        "row": row,
        "backend": TITLES[backend],
        "version": installed(PACKAGES[backend]),
        "Python": platform.python_version(),
        "Keras": installed("keras-nightly", "keras"),
        "NumPy": installed("numpy"),
        "reason": reason,
        "passed": tests - sum(others),
        "failed": sum(others[:2]),
        "date": suite.get("timestamp")[:10],
    }


def table():
    """A Markdown table: the rows, by backend and version."""
    found = [json.loads(file.read_text()) for file in RESULTS.glob("*.json")]
    found.sort(key=lambda kept: (kept["backend"], kept["Python"], kept["row"]))
    lines = ["| backend | Python | Keras | NumPy | why | passed | failed | run on |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for kept in found:
        backend = f"{kept['backend']} {kept['version']}"
        cells = [kept[key] for key in ("Python", "Keras", "NumPy", "reason", "passed", "failed")]
        lines.append(f"| {' | '.join([str(cell) for cell in (backend, *cells, kept['date'])])} |")
    return "\n".join(lines)


def main():
    """Keep the result of one row, and write the page."""
    RESULTS.mkdir(exist_ok=True)
    row, *_ = arguments = sys.argv[1:]
    (RESULTS / f"{row}.json").write_text(json.dumps(result(*arguments)) + "\n")
    before, after = PAGE.read_text().split(START)[0], PAGE.read_text().split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{table()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
