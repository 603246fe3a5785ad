"""Studies as data: what changes, and what that isolates. No torch here."""
