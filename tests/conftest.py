"""Shared by all tests: `tests/` is importable, nothing reaches for a network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
