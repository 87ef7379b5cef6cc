"""Who may talk to the daemon: decided by what the kernel says of a peer, or by its key. Deny by default. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

ROOT = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """A process at the other end of a Unix socket, as the kernel knew it when it connected."""

    uid: int
    groups: frozenset[int]
    """Its group and its supplementary groups."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom a connection belongs to: one uid, or one key of those that come over the network."""

    name: str
    """``uid:1000`` or ``key:laptop``."""
    is_admin: bool = False
    """Our own user, or root: may load and unload, and has no quota unless one was configured."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who is let in besides our own user and root, all as numbers."""

    owner: int
    """The daemon's own uid."""
    users: frozenset[int] = field(default_factory=frozenset)
    groups: frozenset[int] = field(default_factory=frozenset)
    """The group of the socket file, and those that were configured."""

    def with_group(self, group: int | None) -> Access:
        """The same, and whoever is in this group; None: there is none."""
        return self if group is None else replace(self, groups=self.groups | {group})

    def user_of(self, peer: Peer) -> User | None:
        """Who the peer is to us; None: nobody, and it is refused."""
        is_admin = peer.uid in (self.owner, ROOT)
        if is_admin or peer.uid in self.users or peer.groups & self.groups:
            return User(f"uid:{peer.uid}", is_admin)
        return None


def user_of_key(name: str) -> User:
    """Who came with an allowed key. Never an administrator: the owner is on this machine."""
    return User(f"key:{name}")
