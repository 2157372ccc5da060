"""Training runs: what `glocal train` does."""
