"""`kedit-demo`, and its options: beside the package, so that `--help` needs no backend."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

STRATEGIES = ("inputs", "activations", "outputs")


def parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of the demo's options."""
    options = argparse.ArgumentParser(program, description="Three ways to edit a tensor.")
    add = partial(options.add_argument, help="default: %(default)s")
    add("--strategy", choices=(*STRATEGIES, "all"), default="all")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("kedit-demo.png"), metavar="PATH")
    options.add_argument("--quiet", action="store_true", help="show no progress")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration, as `python -m kedit` does, and return the exit status."""
    parser("kedit-demo").parse_args(arguments)
    from kedit.__main__ import main as demonstrate  # noqa: PLC0415  # after `--help`

    return demonstrate(arguments)


if __name__ == "__main__":
    sys.exit(main())
