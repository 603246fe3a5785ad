"""Data sets: the catalogue, preparing, verifying, split lists, loading. Nothing heavy is imported here."""
