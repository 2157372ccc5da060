"""Training and evaluation runs: what `glocal train` and `glocal eval` do."""
