"""What the server under the service keeps count of: descriptors, connections, and lines of its log."""

import asyncio
import logging
from unittest.mock import Mock

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("resource")
import resource

import uvicorn
from uvicorn.server import ServerState

from glocal.deploy import connections
from glocal.deploy.connections import Connections, RateLimit, room_for_connections


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


def test_whose_connection_ends(monkeypatch):
    """Who sends no head, or takes nothing; not who takes a long answer slowly, and whoever was silent longest first."""
    now = [0.0]
    monkeypatch.setattr(connections.time, "monotonic", lambda: now[0])
    served = Connections(most=3, patience=10, reading=30)
    unsent = {}

    def connect(name):
        connection = served.protocol(
            config=uvicorn.Config(None, ws="none", log_config=None), server_state=ServerState(), app_state={}
        )
        transport = Mock(**{"get_write_buffer_size.side_effect": lambda: unsent.get(name, 0)})
        transport.get_extra_info.return_value = None
        connection.connection_made(transport)
        return connection

    async def at(time):
        now[0] = time
        await served.check()

    async def all_of_it():
        silent, slow, stuck = map(connect, ("silent", "slow", "stuck"))
        unsent.update(slow=1000, stuck=1000)
        await at(9)
        assert len(served.open) == 3
        await at(11)
        assert served.open == {slow, stuck}
        unsent["slow"] = 500
        await at(29)
        await at(31)
        assert served.open == {slow}
        silent.transport.abort.assert_called_once()
        unsent["slow"] = 0
        first, second = connect("first"), connect("second")
        slow.data_received(b"GET /")
        assert served.open == {slow, first, second}
        third = connect("third")
        assert served.open == {slow, second, third}
        served.waiting.clear()  # now all are being answered
        refused = connect("refused")
        assert served.open == {slow, second, third}
        assert refused.transport.write.call_args[0][0].startswith(b"HTTP/1.1 503 ")
        refused.transport.close.assert_called_once()

    asyncio.run(all_of_it())


def test_a_log_is_bounded(monkeypatch):
    """Ten lines of a kind in a minute; of another kind, too; then how many were left out."""
    now = [0.0]
    monkeypatch.setattr(connections.time, "monotonic", lambda: now[0])
    rate_limit = RateLimit()

    def told(message, *args, name="uvicorn.error"):
        record = logging.LogRecord(name, logging.WARNING, "", 0, message, args, None)
        return record.getMessage() if rate_limit.filter(record) else None

    assert [told("invalid %d", number) for number in range(10)] == [f"invalid {number}" for number in range(10)]
    assert [told("invalid %d", number) for number in range(5000)] == [None] * 5000
    assert told("other") == "other"
    assert told("invalid %d", 1, name="asyncio") == "invalid 1"
    now[0] = 61.0
    assert told("invalid %d", 7) == "invalid 7 (and 5000 more like it before)"
    assert told("invalid %d", 8) == "invalid 8"
