"""Portable arithmetic: chosen before torch starts, stated in the record."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks.devices import PORTABLE, Arithmetic, compute_with
from benchmarks.errors import RequestError

CODE = """
import json, os, sys
from benchmarks.devices import Arithmetic, compute_with, now, provenance
compute_with(Arithmetic(sys.argv[1]))
import torch
got = provenance(started=now(), device=torch.device("cpu"))
print(json.dumps([got.arithmetic, got.cpu_capability, os.environ.get("MKL_CBWR")]))
"""


def seen(arithmetic: str, **env: str) -> list[str | None]:
    environment = {k: v for k, v in os.environ.items() if k not in PORTABLE} | env
    done = subprocess.run(
        [sys.executable, "-c", CODE, arithmetic], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_record_says_with_which_arithmetic_it_was_made() -> None:
    assert seen("portable", ATEN_CPU_CAPABILITY="default") == ["portable", "AVX2", "COMPATIBLE"]
    native = seen("native", ATEN_CPU_CAPABILITY="default")
    assert native in ([None, "DEFAULT", None], [None, "NO AVX", None]), "the latter in torch 2.6"


def test_it_is_refused_where_it_would_come_too_late() -> None:
    import torch  # noqa: F401

    with pytest.raises(RequestError, match="before torch is imported"):
        compute_with(Arithmetic.portable)
    compute_with(Arithmetic.native)
