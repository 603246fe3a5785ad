"""Run the tests that compare floats under each instruction set that torch, oneDNN and MKL can be told to use.

    python tests/instruction_sets.py [PATH ...] [-- PYTEST OPTIONS]

Numbers that agree on one CPU to the last bit need not on another, since sums are ordered otherwise. Each setting is
one environment variable, read when the libraries start, so each is a pytest of its own; "none set" comes first.
Settings that this CPU lacks are left out and named. Without PATH: the tests of `tests/` that compare floats, as
`tests/floats.py` finds them.
Exit status: 0 when every setting passes, else 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

SETTINGS: tuple[dict[str, str], ...] = (
    {},
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {"ATEN_CPU_CAPABILITY": "avx512"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"MKL_CBWR": "COMPATIBLE"},
    {"MKL_CBWR": "AVX2"},
)
NAMES = sorted({name for setting in SETTINGS for name in setting})


def capability(setting: dict[str, str]) -> str:
    """What torch reports of the CPU under `setting`: DEFAULT, AVX2 or AVX512."""
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    done = subprocess.run([sys.executable, "-c", code], env=environment(setting), capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]


def environment(setting: dict[str, str]) -> dict[str, str]:
    """This process's, with none of the settings but `setting`."""
    return {k: v for k, v in os.environ.items() if k not in NAMES} | setting


def missing(setting: dict[str, str], here: str) -> bool:
    """Whether the CPU, of which torch reports `here`, cannot do what `setting` asks for."""
    wanted = setting.get("ATEN_CPU_CAPABILITY", "default").upper()
    order = ["DEFAULT", "AVX2", "AVX512"]
    return order.index(wanted) > (order.index(here) if here in order else 0)


def main(arguments: list[str]) -> int:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    chosen, extra = arguments[:split], arguments[split + 1 :]
    chosen = chosen or ["-p", "tests.floats", "tests"]
    here = capability({})
    print(f"CPU capability: {here}", flush=True)
    failed = False
    for setting in SETTINGS:
        name = " ".join(f"{k}={v}" for k, v in setting.items()) or "none set"
        if missing(setting, here):
            print(f"{name:32} left out: this CPU has {here}", flush=True)
            continue
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *extra, *chosen]
        # torch.compile finds code for one instruction set in its cache, asked for another, and cannot compile it.
        with tempfile.TemporaryDirectory() as cache:
            its = environment(setting) | {"TORCHINDUCTOR_CACHE_DIR": cache}
            done = subprocess.run(command, cwd=ROOT, env=its, capture_output=True, text=True)
        lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""]
        print(f"{name:32} {lines[-1].strip('= ')} in {time.monotonic() - began:.0f} s", flush=True)
        if done.returncode:
            failed = True
            print("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
