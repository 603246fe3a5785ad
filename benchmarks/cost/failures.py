"""A measurement that fails is missing, with the reason; the others go on."""

from __future__ import annotations

OUT_OF_MEMORY = "out of memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the host or of an accelerator, did not suffice."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def reason(error: BaseException) -> str:
    """One line that says what went wrong."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    lines = [line for line in str(error).splitlines() if line.strip()] or ["no message"]
    return f"{type(error).__name__}: {lines[0].strip()[:200]}"


def release() -> None:
    """Give back what a failed measurement left in the caches of accelerators."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
