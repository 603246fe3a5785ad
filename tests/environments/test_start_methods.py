"""Loaders under every start method: fork, and spawn and forkserver of macOS, Windows and newer Pythons."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.datasets import pixels
from benchmarks.datasets.loading import DetectionDataset, train_transform
from tests.environments.conftest import environment


def test_a_set_goes_to_another_process_without_a_handle_for_each_image(synthetic, tmp_path: Path) -> None:
    files = [image["file_name"] for image in synthetic.images[:40]]
    dataset = DetectionDataset(synthetic, files, transform=train_transform("flips"), seed=3)
    dataset.fill()
    before = psutil.Process().num_fds() if hasattr(psutil.Process, "num_fds") else 0
    content = bytes(multiprocessing.reduction.ForkingPickler.dumps(dataset))
    assert not hasattr(psutil.Process, "num_fds") or psutil.Process().num_fds() == before
    again = pickle.loads(content)
    assert not again._cache
    for index in (0, 17):
        assert torch.equal(again[index][0], dataset[index][0])
        assert torch.equal(again[index][1]["boxes"], dataset[index][1]["boxes"])


def test_what_is_not_forked_shares_one_file(synthetic, tmp_path: Path, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    monkeypatch.setattr("benchmarks.datasets.loading.cached_on_disk", lambda *a: made.append(a) or None)
    DetectionDataset(synthetic, [synthetic.images[0]["file_name"]]).fill()
    assert len(made) == 1
    monkeypatch.setenv(pixels.ENVIRONMENT, "0")
    DetectionDataset(synthetic, [synthetic.images[0]["file_name"]]).fill()
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_batches_are_the_same_under_every_start_method_with_few_handles(synthetic, data_root, method: str) -> None:
    code = f"""
import multiprocessing, sys, torch
try:
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
except ImportError:
    pass
from benchmarks.datasets.loading import Batches, DetectionDataset, train_transform
from benchmarks.datasets.prepared import open_prepared
if __name__ == "__main__":
    multiprocessing.set_start_method({method!r})
    data = open_prepared("synthetic_small", {str(data_root)!r})
    names = [image["file_name"] for image in data.images]
    def read(workers):
        dataset = DetectionDataset(data, names, transform=train_transform("flips"), seed=3)
        wanted = dict(batch_size=8, seed=1, epochs=range(2), shuffle=True, drop_last=True, workers=workers)
        with Batches(dataset, **wanted) as all_of_it:
            return [image for epoch in range(2) for images, _ in all_of_it.epoch(epoch) for image in images]
    for a, b in zip(read(0), read(2), strict=True):
        assert torch.equal(a, b)
    assert not multiprocessing.active_children()
"""
    script = data_root / f"read_{method}.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
