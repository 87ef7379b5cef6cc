"""``install-service``: writes the systemd units of ``systemd/`` with the paths of this installation. Starts nothing."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from pathlib import Path

import click

import embeddaemon
from embeddaemon.cli.console import put
from embeddaemon.cli.serve import refuse_client_install
from embeddaemon.errors import ConfigError

_MARK = "# embeddaemon install-service wrote this; SHA-256 of what follows: "
_TEMPLATES = files("embeddaemon") / "systemd"
_TEMPLATE_COMMAND = "ExecStart=/usr/bin/embeddaemon serve\n"

_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - named, not used
"""ProtectHome= and PrivateTmp= of the system's unit: nothing below is there for the daemon."""

_DROP_INS = {"gpu": "NVIDIA cards", "hub": "models from the hub", "tcp": "clients over the network, with keys"}


class State(Enum):
    """What lies where a file is to be written; the value says what is done about it."""

    MISSING = "wrote"
    SAME = "kept"
    OURS = "replaced"
    EDITED = "overwrote"
    """By hand, or it was never ours: only with --force."""


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A file to be there, and what it is for."""

    path: Path
    text: str
    purpose: str

    def state(self) -> State:
        try:
            found = self.path.read_text()
        except FileNotFoundError:
            return State.MISSING
        except UnicodeDecodeError:
            return State.EDITED
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from error
        if found == self.text:
            return State.SAME
        return State.OURS if _is_as_written(found) else State.EDITED


@click.command(name="install-service", short_help="Write systemd units for this installation.")
@click.option("--user", "is_user", is_flag=True, help="For yourself alone, under your own service manager.")
@click.option(
    "--with",
    "drop_ins",
    type=click.Choice(list(_DROP_INS)),
    multiple=True,
    help="Open the system's unit for NVIDIA cards, for models that are fetched from the hub, or for clients that come "
    "over the network with keys; may be repeated.",
)
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="The daemon reads this file alone."
)
@click.option("--root", type=click.Path(path_type=Path), metavar="DIR", help="Write below DIR: for images, packages.")
@click.option(
    "--force",
    is_flag=True,
    help="Also overwrite what was changed by hand; also write what does not work without a drop-in of yours.",
)
@click.option("--dry-run", is_flag=True, help="Show the files and write nothing.")
def install_service_command(
    *, is_user: bool, drop_ins: tuple[str, ...], config_file: Path | None, root: Path | None, force: bool, dry_run: bool
) -> None:
    """Write systemd units that run the daemon from this installation, and say what to do next. Starts nothing.

    A file that you changed is not overwritten without --force: change units by drop-ins, `systemctl edit embeddaemon`.

    \b
    Examples:
      embeddaemon install-service --dry-run
      sudo /opt/embeddaemon/bin/embeddaemon install-service --with gpu
      embeddaemon install-service --user --config ~/models.toml
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    if is_user and (drop_ins or root is not None):
        raise click.UsageError("--user goes with neither --with (a user's unit restricts neither) nor --root")
    refuse_client_install()
    command = [*_this_program(), "serve"]
    if config_file is not None:
        command += ["--config", str(_existing(config_file))]
    if is_user:
        wanted = _user_files(command, _user_folder())
    else:
        if not force:
            check_reachable([] if config_file is None else [config_file.absolute()], _CONFIG_ADVICE)
            check_reachable(_program_files(), _PROGRAM_ADVICE)
        wanted = _system_files(command, drop_ins, Path("/") if root is None else root)
    if dry_run:
        for each in wanted:
            put(f"# ---- {each.path}: {each.purpose}\n{each.text}")
        return
    for each, state in _write(wanted, force=force):
        put(f"{state.value:<9} {each.path}: {each.purpose}")
    for path in _others_beside(wanted):
        put(f"in force  {path}: a drop-in that was there, not asked for now; remove it if it is not wanted")
    put(_USER_STEPS if is_user else _SYSTEM_STEPS)


_SYSTEM_STEPS = """
Next, as root:
  systemd-sysusers                                  makes the user embeddaemon
  systemctl daemon-reload
  systemctl enable --now embeddaemon.service        starts the daemon, now and at every boot
  systemctl enable --now embeddaemon.socket         or, instead: the first client starts it
  usermod --append --groups embeddaemon NAME        lets NAME talk to it, from the next login on
Then: `systemctl status embeddaemon`, `journalctl --unit embeddaemon`, `embeddaemon status`.
Settings go into /etc/embeddaemon/embeddaemon.toml."""

_USER_STEPS = """
Next:
  systemctl --user daemon-reload
  systemctl --user enable --now embeddaemon.service   starts the daemon, now and at every login
  systemctl --user enable --now embeddaemon.socket    or, instead: the first client starts it
  loginctl enable-linger                              if it is to run while you are not logged in
Then: `systemctl --user status embeddaemon`, `journalctl --user --unit embeddaemon`, `embeddaemon status`.
Settings go into ~/.config/embeddaemon/embeddaemon.toml."""


def _system_files(command: Sequence[str], drop_ins: Sequence[str], root: Path) -> list[UnitFile]:
    units = root / "etc/systemd/system"
    wanted = [
        _unit(units / "embeddaemon.service", "embeddaemon.service", "the daemon, as the user embeddaemon", command),
        _unit(units / "embeddaemon.socket", "embeddaemon.socket", "its socket, when systemd is to listen"),
        _unit(root / "etc/sysusers.d/embeddaemon.conf", "sysusers.conf", "that user"),
    ]
    folder = units / "embeddaemon.service.d"
    return wanted + [
        _unit(folder / f"{name}.conf", f"{name}.conf", _DROP_INS[name]) for name in dict.fromkeys(drop_ins)
    ]


def _others_beside(wanted: Sequence[UnitFile]) -> list[Path]:
    """Drop-ins of the service that are in force too."""
    folder = wanted[0].path.with_name(f"{wanted[0].path.name}.d")
    return sorted(set(folder.glob("*.conf")) - {each.path for each in wanted})


def _user_files(command: Sequence[str], units: Path) -> list[UnitFile]:
    return [
        _unit(units / "embeddaemon.service", "user/embeddaemon.service", "the daemon, as yourself", command),
        _unit(units / "embeddaemon.socket", "user/embeddaemon.socket", "its socket, when systemd is to listen"),
    ]


def _user_folder() -> Path:
    """Where a user's units lie."""
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "systemd/user"


def _unit(path: Path, template: str, purpose: str, command: Sequence[str] = ()) -> UnitFile:
    """From the template of that name; ``command`` takes the place of the one in it."""
    text = _TEMPLATES.joinpath(template).read_text(encoding="utf-8")
    if command:
        assert _TEMPLATE_COMMAND in text, f"{template} has another command: bug"
        text = text.replace(_TEMPLATE_COMMAND, f"ExecStart={' '.join(map(_quoted, command))}\n")
    return UnitFile(path, f"{_MARK}{_digest(text)}\n{text}", purpose)


def _quoted(word: str) -> str:
    """A word of a command line as systemd.service(5) reads it: no specifier, no variable, one word."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if escaped == word and not set(word) & set(" \t';") else f'"{escaped}"'


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_as_written(found: str) -> bool:
    """Whether a file is still what some version of this command wrote."""
    first, _, rest = found.partition("\n")
    return first == _MARK + _digest(rest)


def _write(wanted: Sequence[UnitFile], *, force: bool) -> list[tuple[UnitFile, State]]:
    """All or, when one of them was changed by hand, none. Raises ConfigError."""
    states = [(each, each.state()) for each in wanted]
    edited = [str(each.path) for each, state in states if state is State.EDITED]
    if edited and not force:
        raise ConfigError(
            f"{', '.join(edited)}: changed since it was written, or not written by this command; nothing was written. "
            "Compare with --dry-run, keep changes in a drop-in (`systemctl edit`), then use --force"
        )
    for each, state in states:
        if state is not State.SAME:
            _write_one(each)
    return states


def _write_one(file: UnitFile) -> None:
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        new = file.path.with_name(f".{file.path.name}.new")
        new.write_text(file.text)
        new.chmod(0o644)
        new.replace(file.path)
    except PermissionError as error:
        raise ConfigError(f"{file.path} cannot be written: be root, or use --user for a daemon of your own") from error
    except OSError as error:
        raise ConfigError(f"{file.path} cannot be written: {error.strerror}") from error


def _this_program() -> list[str]:
    """The command that this installation is called by."""
    script = Path(sys.executable).with_name("embeddaemon")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "embeddaemon"]


def _existing(config_file: Path) -> Path:
    if not config_file.is_file():
        raise ConfigError(f"--config {config_file}: there is no such file")
    return config_file.absolute()


def _program_files() -> list[Path]:
    """The interpreter as it is called, the one that it is (outside a venv), and the package."""
    return [Path(sys.executable), Path(sys.executable).resolve(), Path(embeddaemon.__file__).resolve()]


_PROGRAM_ADVICE = (
    "Install where all may read, such as `python3 -m venv /opt/embeddaemon`, and run that embeddaemon; or use --user"
)
_CONFIG_ADVICE = (
    "Move it to where all may read; as /etc/embeddaemon/embeddaemon.toml it is found without --config; or use --user"
)


def check_reachable(paths: Sequence[Path], advice: str) -> None:
    """Raises ConfigError for one that the system's service would not find, or may not read."""
    for path in paths:
        if (folder := _closed_folder(path)) is not None:
            raise _unreachable(path, f"others may not enter {folder}", advice)
        for hidden in _HIDDEN:
            if path.is_relative_to(hidden):
                raise _unreachable(path, f"{hidden} is hidden from it", advice)


def _unreachable(path: Path, why: str, advice: str) -> ConfigError:
    return ConfigError(
        f"the system's service could not use {path}: {why}. {advice}. With --force the unit is written all the same, "
        "for a drop-in that makes it work"
    )


def _closed_folder(path: Path) -> Path | None:
    """One on the way to a path that another user may not pass."""
    folders = (folder for folder in path.parents if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH)
    return next(folders, None)
