"""How many bytes we allow ourselves on one device, read from what a person wrote. Measuring limits is in probes.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from embeddaemon.errors import ConfigError
from embeddaemon.governor.samples import Limit

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# The rest of the machine is for the applications that we serve: they are why we run.
DEFAULT_MEMORY_BUDGET = "80%"

# The reserve covers what no lease does: the supervisor and the gateway (50-60 MB each) and what workers allocate
# between two samples. A small budget keeps a tenth of itself instead: a reserve that eats the budget protects nothing.
DEFAULT_RESERVE_BYTES = 256 * MIB
DEFAULT_RESERVE_DIVISOR = 10

# Below this a number is a slip ("80" for "80%", "8" for "8GiB"), not a wish; a bare Python process is larger.
MINIMUM_BUDGET_BYTES = MIB

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024 * GIB,
}
_ALLOWED_BYTES = 'a positive whole number of bytes, or text such as "8GiB", "1.5GB" or "500MB"'
_ALLOWED_BUDGET = f'a share such as "{DEFAULT_MEMORY_BUDGET}" (above 0%, at most 100%), or {_ALLOWED_BYTES}'

# At most 18 digits: no memory is larger, and int() of a text of thousands of digits raises or takes for ever.
_BYTES_TEXT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([a-z]{0,3})", re.IGNORECASE)
_SHARE_TEXT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the real limit, in percent, above 0 and at most 100."""

    percent: Decimal

    def of(self, limit: Limit) -> int:
        """Bytes that this share makes of the limit."""
        return int(limit.bytes * self.percent / 100)


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes we allow ourselves on one device ("ram", later "cuda:0", "mps"), never above the real ``limit``.

    ``reserve_bytes`` of them are never leased.
    """

    device: str
    bytes: int
    reserve_bytes: int
    limit: Limit

    def __post_init__(self) -> None:
        assert 0 < self.bytes <= self.limit.bytes, "a budget above its limit: budget_from() refuses it"
        assert 0 <= self.reserve_bytes < self.bytes, "a reserve that leaves nothing: budget_from() refuses it"

    @property
    def leasable_bytes(self) -> int:
        """The most that all leases together may hold."""
        return self.bytes - self.reserve_bytes

    @property
    def source(self) -> str:
        """Where the budget comes from, such as "80 % of 7.5 GiB, machine MemTotal"."""
        percent = f"{100 * self.bytes / self.limit.bytes:.3g}"
        return f"{percent} % of {format_bytes(self.limit.bytes)}, {self.limit.source}"


def parse_bytes(setting: object) -> int:
    """Bytes from a whole number or text such as "8GiB" (powers of 1024) or "500MB" (powers of 1000).

    Raises ConfigError, naming what is allowed, for anything else and for anything below one byte.
    """
    if isinstance(setting, int) and not isinstance(setting, bool) and setting > 0:
        return setting
    if isinstance(setting, str) and (matched := _BYTES_TEXT.fullmatch(setting.strip())):
        unit_bytes = _UNITS.get(matched[2].lower(), 0)
        if (parsed := int(Decimal(matched[1]) * unit_bytes)) > 0:
            return parsed
    raise ConfigError(f"{setting!r} is not a number of bytes; allowed: {_ALLOWED_BYTES}")


def parse_budget(setting: object) -> Share | int:
    """A share ("80%") or bytes ("8GiB", 8589934592). Raises ConfigError, naming what is allowed, for anything else."""
    if isinstance(setting, str) and (matched := _SHARE_TEXT.fullmatch(setting.strip())):
        percent = Decimal(matched[1])
        if 0 < percent <= 100:
            return Share(percent)
    else:
        try:
            return parse_bytes(setting)
        except ConfigError:
            pass
    raise ConfigError(f"{setting!r} is not a memory budget; allowed: {_ALLOWED_BUDGET}")


def default_reserve_bytes(budget_bytes: int) -> int:
    """The reserve in bytes for a budget whose owner names none."""
    return min(DEFAULT_RESERVE_BYTES, budget_bytes // DEFAULT_RESERVE_DIVISOR)


def budget_from(setting: object, limit: Limit, reserve_bytes: int | None = None, *, device: str = "ram") -> Budget:
    """The budget that a setting makes of the real limit; ``reserve_bytes`` None takes the default reserve.

    A number above the real limit is refused with ConfigError, not clamped: it would silently mean something else than
    what was written, and who wants to follow the machine writes a share.
    """
    parsed = parse_budget(setting)
    budget_bytes = parsed.of(limit) if isinstance(parsed, Share) else parsed
    limit_text = f"{format_bytes(limit.bytes)} ({limit.source})"
    if budget_bytes > limit.bytes:
        raise ConfigError(
            f"memory budget {setting!r} is above the real limit of {limit_text}; "
            f'allowed: at most that, or a share such as "{DEFAULT_MEMORY_BUDGET}"'
        )
    if budget_bytes < MINIMUM_BUDGET_BYTES:
        raise ConfigError(
            f"memory budget {setting!r} is {budget_bytes} bytes of the real limit of {limit_text}; nothing fits into "
            f"less than {format_bytes(MINIMUM_BUDGET_BYTES)}; allowed: {_ALLOWED_BUDGET}"
        )
    reserve = default_reserve_bytes(budget_bytes) if reserve_bytes is None else reserve_bytes
    if not 0 <= reserve < budget_bytes:
        raise ConfigError(
            f"a reserve of {reserve} bytes does not fit the memory budget of {format_bytes(budget_bytes)}; "
            "allowed: from 0 to less than the budget"
        )
    return Budget(device, budget_bytes, reserve, limit)


def format_bytes(count: int) -> str:
    """Bytes for a person to read: "512 B", "14 MiB", "1.8 GiB"."""
    for unit_bytes, unit, digits in ((GIB, "GiB", 1), (MIB, "MiB", 0), (KIB, "KiB", 0)):
        if abs(count) >= unit_bytes:
            return f"{count / unit_bytes:.{digits}f} {unit}"
    return f"{count} B"
