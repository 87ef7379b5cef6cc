"""What one user may take: requests, bytes, loads, connections, and his turn in a queue."""

from __future__ import annotations

import pytest

from embeddaemon.config.settings import Quotas
from embeddaemon.errors import Busy
from embeddaemon.protocol.messages import Embed, Lane
from embeddaemon.supervisor.connections.authorisation import Access, Peer, User
from embeddaemon.supervisor.connections.quotas import Quota, Room, Usage, quota_of
from embeddaemon.supervisor.requests.dispatch import OpenRequest, Queue

NONE = Quota(None, None, None)


@pytest.mark.parametrize(
    ("peer", "user"),
    [
        (Peer(7, frozenset({7})), User("uid:7", is_admin=True)),
        (Peer(0, frozenset({0})), User("uid:0", is_admin=True)),
        (Peer(8, frozenset({8, 70})), User("uid:8")),
        (Peer(9, frozenset({9})), User("uid:9")),
        (Peer(10, frozenset({10, 7})), None),
        (Peer(-1, frozenset()), None),
    ],
    ids=["owner", "root", "member of a group", "named user", "stranger", "unknown"],
)
def test_nobody_is_let_in_but_who_is_allowed(peer: Peer, user: User | None) -> None:
    assert Access(owner=7, users=frozenset({9}), groups=frozenset({70})).user_of(peer) == user


def test_fewer_connections_of_a_user_keep_those_that_are_there_and_let_no_further_one_in() -> None:
    room = Room(connections=8, connections_of_user=None, bytes_of_user=1, bytes_of_all=1)
    room.came("uid:1")
    assert room.has_place("uid:1", is_admin=False)
    room.allow(1)
    assert not room.has_place("uid:1", is_admin=False)
    assert room.has_place("uid:2", is_admin=False)
    room.allow(None)
    assert room.has_place("uid:1", is_admin=False)


def test_quotas_are_for_others_unless_they_are_configured() -> None:
    assert quota_of(Quotas(), is_admin=True) == NONE
    assert quota_of(Quotas(), is_admin=False).requests == 384
    assert quota_of(Quotas(requests=5), is_admin=True) == Quota(5, None, None)


def test_request_beyond_the_quota_is_busy_until_one_has_ended() -> None:
    usage, quota = Usage(), Quota(2, None, None)
    usage.entered("uid:1", 10)
    usage.entered("uid:1", 10)
    with pytest.raises(Busy, match="2 requests of yours") as refused:
        usage.check("uid:1", 10, quota)
    assert refused.value.details == {"user": "uid:1", "quota": "requests", "used": 2, "limit": 2}
    usage.check("uid:2", 10, quota)
    usage.left("uid:1", 10)
    usage.check("uid:1", 10, quota)


def test_bytes_beyond_the_quota_are_busy_but_the_first_request_never_is() -> None:
    usage, quota = Usage(), Quota(None, 100, None)
    usage.check("uid:1", 1000, quota)
    usage.entered("uid:1", 60)
    with pytest.raises(Busy, match="60 bytes"):
        usage.check("uid:1", 50, quota)
    usage.check("uid:1", 40, quota)


def test_loads_are_counted_for_a_minute_and_the_hint_says_when() -> None:
    usage, quota = Usage(), Quota(None, None, 2)
    usage.loaded("uid:1", now=100.0)
    usage.loaded("uid:1", now=130.0)
    with pytest.raises(Busy) as refused:
        usage.check_load("uid:1", quota, now=140.0)
    assert refused.value.retry_after_ms == 20_001
    usage.check_load("uid:1", quota, now=160.1)
    with pytest.raises(Busy):
        usage.check_load("uid:1", Quota(None, None, 0), now=1000.0)


def test_status_shows_who_holds_what() -> None:
    usage = Usage()
    usage.entered("uid:1", 10)
    usage.loaded("uid:2", now=5.0)
    assert usage.document(now=10.0) == [
        {"user": "uid:1", "requests": 1, "bytes": 10, "loads_last_minute": 0, "refused": 0},
        {"user": "uid:2", "requests": 0, "bytes": 0, "loads_last_minute": 1, "refused": 0},
    ]


def test_connections_of_one_user_leave_places_for_others() -> None:
    room = Room(connections=8, connections_of_user=None, bytes_of_user=100, bytes_of_all=2000)
    for _ in range(2):
        assert room.has_place("uid:1", is_admin=False)
        room.came("uid:1")
    assert not room.has_place("uid:1", is_admin=False)
    assert room.has_place("uid:2", is_admin=False)
    for _ in range(6):
        assert room.has_place("uid:0", is_admin=True)
        room.came("uid:0")
    assert not room.has_place("uid:0", is_admin=True)
    room.went("uid:1")
    assert room.has_place("uid:2", is_admin=False)


def test_bytes_are_held_up_to_the_bound_and_one_frame_always() -> None:
    room = Room(connections=8, connections_of_user=None, bytes_of_user=100, bytes_of_all=2000)
    assert room.hold("uid:1", 1000)
    assert not room.hold("uid:1", 1)
    assert room.hold("uid:2", 60)
    assert not room.hold("uid:2", 60)
    assert room.hold("uid:3", 900)
    assert not room.hold("uid:2", 40 + 1)
    room.release("uid:1", 1000)
    assert room.hold("uid:1", 50)
    assert room.hold("uid:1", 50)


def request(serial: int, user: str) -> OpenRequest:
    return OpenRequest(
        serial=serial,
        client=b"c",
        request=Embed(id=serial),
        model="m",
        header=b"",
        body=b"",
        body_bytes=10,
        received_at=float(serial),
        deadline=100.0,
        user=user,
    )


def test_users_take_turns_however_much_one_of_them_asks() -> None:
    queue = Queue()
    for serial in range(1, 7):
        queue.add(request(serial, "greedy"))
    queue.add(request(7, "modest"))
    queue.add(request(8, "third"))
    assert [each.serial for each in queue.take(Lane.INTERACTIVE, 50)] == [1, 7, 8, 2, 3]
    assert len(queue) == 3
    assert queue.oldest() == 4.0
    back = request(2, "third")
    queue.put_back(back)
    assert queue.head(Lane.INTERACTIVE) is back
    queue.remove(back)
    assert [each.serial for each in queue.take(Lane.INTERACTIVE, 1000)] == [4, 5, 6]
    assert not queue.waiting_bytes
    assert queue.head(Lane.INTERACTIVE) is None
