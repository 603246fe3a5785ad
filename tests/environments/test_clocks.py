"""What belongs together is told by digests, not by clocks that may be set back."""

from __future__ import annotations

from benchmarks.cost.cell_profiles import FULL, profiled
from benchmarks.store import ProfileRecord, Stored
from tests.benchmarks.conftest import make_record


def test_a_profile_is_of_the_weights_that_it_names_whatever_the_clock_says() -> None:
    run = make_record(weights_sha256="new")
    early = run.provenance.model_copy(update={"started": "2020-01-01T00:00:00+00:00"})
    late = run.provenance.model_copy(update={"started": "2030-01-01T00:00:00+00:00"})

    def is_adopted(provenance, weights: str | None) -> bool:
        about = dict(parameters=None, macs=None, output_shapes=None, peak_memory_bytes=None, latency=None)
        profile = ProfileRecord(
            cell_id=run.cell_id,
            session="s",
            precision="fp32",
            provenance=provenance,
            weights_sha256=weights,
            **about,
        )
        return profiled(Stored(run, profile, None), set(), FULL)

    assert not is_adopted(late, "old"), "the cell was run again, and the clock had been set back"
    assert is_adopted(early, "new"), "the clock was set back after the training"
    assert is_adopted(late, None), "an older profile names no weights: the clock must do"
    assert not is_adopted(early, None)
