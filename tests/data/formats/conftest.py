"""Shared by the tests of formats."""

import pytest

from glocal.data.image import set_strict


@pytest.fixture
def strict():
    set_strict(True)
    yield
    set_strict(False)
