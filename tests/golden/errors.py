"""The worst errors against golden values, for people: `pytest tests/models/heads tests/models/detectors --errors`."""

import os

WORST: dict[str, tuple[float, str]] = {}  # of each test: the error, and of what


def seen(error: float, name: str) -> float:
    """Remember an error of the running test, if it is its worst; returns it."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    WORST[test] = max(WORST.get(test, (-1.0, "")), (float(error), name))
    return error
