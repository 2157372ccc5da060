"""One service for the campaigns against it."""

import pytest

from hostile.service import serving


@pytest.fixture(scope="package")
def served(checkpoint, tmp_path_factory):
    """With room for 128 connections, two seconds' patience, and 2 MB and 4 images per request."""
    pytest.importorskip("fastapi")
    pytest.importorskip("resource")
    options = ["--idle-timeout", "2", "--timeout", "6", "--max-megabytes", "2", "--max-images", "4"]
    log = tmp_path_factory.mktemp("served") / "log"
    with serving(checkpoint, log, *options, descriptors=256) as served:
        yield served
