"""The regression gate: red when it got worse, green when it did not, grey when nobody can tell. Torch-free."""
