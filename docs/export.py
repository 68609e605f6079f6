"""Write what the tests of exported models found into the guide.

python docs/export.py                    the guide, from what is kept in `export/`
python docs/export.py results.xml        what `pytest --junitxml` wrote on a backend, and the guide

`nox -s export` does both.
"""

import importlib.metadata
import json
import os
import pathlib
import sys
import xml.etree.ElementTree as ET

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "export"
PAGE = HERE / "guides" / "export.md"
START, END = "<!-- export: start -->", "<!-- export: end -->"
TITLES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
PACKAGES = (
    *("kedit", "keras", "tensorflow-cpu", "jax", "torch", "tf2onnx", "onnxscript"),
    *("onnx", "onnxruntime", "openvino"),
)
RIGHT, FINITE, MORE = "right", "right but for NaN and infinity", "right, with one more output"


def versions():
    """What is installed here, of what the results depend on."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def outcomes(path):
    """What a run of the tests found: kinds of models with their outcomes, by format."""
    found = {}
    for case in ET.parse(path).iter("testcase"):
        told = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
        if "found" in told:
            found.setdefault(told["how"], {})[told["kind"]] = told["found"]
    return found


def table(found):
    """How many models each format exports."""
    lines = [
        "| Format | Right | but for NaN and infinity | with one more output | Refused |",
        "|---|---|---|---|---|",
    ]
    for how, kinds in found.items():
        counts = [list(kinds.values()).count(outcome) for outcome in (RIGHT, FINITE, MORE)]
        counts.append(len(kinds) - sum(counts))
        lines.append(f"| {how} | {' | '.join(map(str, counts))} |")
    return lines


def reasons(found):
    """Which kinds are not right, by format and reason."""
    lines = []
    for how, kinds in found.items():
        grouped = {}
        for kind, outcome in kinds.items():
            if outcome != RIGHT:
                grouped.setdefault(outcome, []).append(kind)
        for outcome, names in grouped.items():
            right = [kind for kind, other in kinds.items() if other == RIGHT]
            shown = "; ".join(names)
            if outcome == FINITE and len(names) > len(right):
                shown = f"all but {'; '.join(right)}, and those that are refused"
            lines.append(f"- {how}, {outcome}: {shown}.")
    return lines


def page():
    """The tables of all backends, with the versions that they were made with."""
    parts = []
    for backend, title in TITLES.items():
        file = RESULTS / f"{backend}.json"
        if file.exists():
            kept = json.loads(file.read_text())
            found = kept["found"]
            parts += [f"### From {title}", "", *table(found), "", *reasons(found), ""]
            parts += [f"{', '.join(kept['versions'])}.", ""]
    return "\n".join(parts)


def main():
    """Keep the results that are named, and write the guide."""
    for path in sys.argv[1:]:
        RESULTS.mkdir(exist_ok=True)
        kept = {"versions": versions(), "found": outcomes(path)}
        file = RESULTS / f"{os.environ['KERAS_BACKEND']}.json"
        file.write_text(json.dumps(kept, indent=1) + "\n")
    before, after = PAGE.read_text().split(START)[0], PAGE.read_text().split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{page()}\n{END}{after}")


if __name__ == "__main__":
    main()
