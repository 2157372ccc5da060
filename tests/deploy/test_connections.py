"""What the server under the service keeps count of: descriptors and lines of its log."""

import logging

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("resource")
import resource

from glocal.deploy import connections
from glocal.deploy.connections import Sparse, room_for_connections


@pytest.mark.parametrize(
    ("limits", "wanted", "room", "raised"),
    [
        ((20_000, 20_000), 1000, 1000, None),
        ((1024, 20_000), 1000, 1000, 1464),
        ((1024, 1024), 1000, 704, None),
        ((256, 256), 1000, 128, None),
        ((1024, 1024), 100, 100, None),
        ((1024, resource.RLIM_INFINITY), 1000, 1000, 1464),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 1000, 1000, None),
        ((70, 70), 1000, 1, None),
    ],
)
def test_connections_leave_descriptors_for_the_rest(limits, wanted, room, raised, monkeypatch):
    """Files, and what asyncio accepts before the server is told."""
    set_to = []
    monkeypatch.setattr(connections.resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(connections.resource, "setrlimit", lambda kind, to: set_to.append(to))
    found, at_once = room_for_connections(wanted)
    assert found == room
    assert set_to == ([] if raised is None else [(raised, limits[1])])
    soft = raised or limits[0]
    if soft not in (70, resource.RLIM_INFINITY):
        assert found + 64 + 4 * at_once <= soft


def test_a_log_is_bounded(monkeypatch):
    """Ten lines of a kind in a minute; of another kind, too; then how many were left out."""
    now = [0.0]
    monkeypatch.setattr(connections.time, "monotonic", lambda: now[0])
    sparse = Sparse()

    def told(message, *args, name="uvicorn.error"):
        record = logging.LogRecord(name, logging.WARNING, "", 0, message, args, None)
        return record.getMessage() if sparse.filter(record) else None

    assert [told("invalid %d", number) for number in range(10)] == [f"invalid {number}" for number in range(10)]
    assert [told("invalid %d", number) for number in range(5000)] == [None] * 5000
    assert told("other") == "other"
    assert told("invalid %d", 1, name="asyncio") == "invalid 1"
    now[0] = 61.0
    assert told("invalid %d", 7) == "invalid 7 (and 5000 more like it before)"
    assert told("invalid %d", 8) == "invalid 8"
