"""The harness: suites, data sets, training, evaluation, profiles, records, reports, the gate."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _require_ours() -> None:
    """One line, and exit code 2 of a command, where a folder of the same name hides a package that comes with this."""
    here = Path(__file__).resolve().parents[1]
    for name in ("canet", "baselines", "ablations"):
        spec = importlib.util.find_spec(name)
        places = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if here / name in places:
            continue
        other = f"{places[0]} hides it" if places else "Python does not find it"
        line = f"package {name!r} must be {here / name}, and {other}; run from another folder, or rename that one"
        if sys.argv[0] == "-m":  # while Python looks for a command's module
            sys.stderr.write(f"error: {line}\n")
            raise SystemExit(2)
        raise ImportError(line)


_require_ours()
