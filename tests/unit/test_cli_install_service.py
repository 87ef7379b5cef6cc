"""install-service: what it writes, what it leaves alone, and what it says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from embeddaemon.cli.app import cli
from embeddaemon.cli.install_service import check_reachable
from embeddaemon.errors import ConfigError

SERVICE = Path("etc/systemd/system/embeddaemon.service")


def install(*arguments: str, config_home: Path | None = None) -> Result:
    environment = {} if config_home is None else {"XDG_CONFIG_HOME": str(config_home)}
    return CliRunner().invoke(cli, ["install-service", *arguments], env=environment)


def install_below(root: Path, *arguments: str) -> Result:
    """Wherever the tests' interpreter lies: --force, so that it need not be where a service finds it."""
    return install("--root", str(root), "--force", *arguments)


def exec_start(unit: Path) -> str:
    (line,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    return line.removeprefix("ExecStart=")


def test_system_units_run_this_installation_and_the_next_commands_are_told(tmp_path: Path) -> None:
    done = install_below(tmp_path)
    assert done.exit_code == 0, done.output
    command = exec_start(tmp_path / SERVICE)
    assert command.endswith(" serve")
    assert Path(command.split()[0]).parent == Path(sys.executable).parent
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {
        "etc/systemd/system/embeddaemon.service",
        "etc/systemd/system/embeddaemon.socket",
        "etc/sysusers.d/embeddaemon.conf",
    }
    for step in ("systemd-sysusers", "systemctl daemon-reload", "systemctl enable --now", "usermod"):
        assert step in done.output


def test_user_units_need_no_root_and_no_user_of_their_own(tmp_path: Path) -> None:
    done = install("--user", config_home=tmp_path)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "systemd/user").iterdir()) == [
        "embeddaemon.service",
        "embeddaemon.socket",
    ]
    assert "User=" not in (tmp_path / "systemd/user/embeddaemon.service").read_text()
    assert "systemctl --user daemon-reload" in done.output


def test_units_can_be_read_by_everybody(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        install_below(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / SERVICE).stat().st_mode & 0o777 == 0o644


def test_drop_ins_are_written_when_asked_for(tmp_path: Path) -> None:
    install_below(tmp_path, "--with", "gpu", "--with", "hub", "--with", "tcp")
    folder = tmp_path / "etc/systemd/system/embeddaemon.service.d"
    assert "DeviceAllow=char-nvidia*" in (folder / "gpu.conf").read_text()
    assert "RestrictAddressFamilies=AF_INET AF_INET6" in (folder / "hub.conf").read_text()
    assert "IPAddressAllow=localhost" in (folder / "tcp.conf").read_text()


def test_drop_ins_that_are_there_and_not_asked_for_are_named(tmp_path: Path) -> None:
    assert "in force" not in install_below(tmp_path, "--with", "hub").output
    done = install_below(tmp_path)
    assert f"in force  {tmp_path / SERVICE}.d/hub.conf" in done.output


def test_dry_run_shows_the_files_and_writes_nothing(tmp_path: Path) -> None:
    done = install_below(tmp_path, "--dry-run")
    assert "Type=notify" in done.output
    assert str(tmp_path / SERVICE) in done.output
    assert list(tmp_path.iterdir()) == []


def test_second_run_keeps_what_is_there(tmp_path: Path) -> None:
    install("--user", config_home=tmp_path)
    before = (tmp_path / "systemd/user/embeddaemon.service").stat().st_mtime_ns
    done = install("--user", config_home=tmp_path)
    assert done.output.count("kept") == 2
    assert (tmp_path / "systemd/user/embeddaemon.service").stat().st_mtime_ns == before


def test_file_that_an_earlier_version_wrote_is_replaced(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.touch()
    install("--user", "--config", str(config), config_home=tmp_path)
    done = install("--user", config_home=tmp_path)
    assert done.exit_code == 0
    assert "replaced" in done.output
    assert exec_start(tmp_path / "systemd/user/embeddaemon.service").endswith(" serve")


@pytest.mark.parametrize("change", ["[Service]\nNice=5\n", "not ours"])
def test_file_that_was_changed_by_hand_is_only_overwritten_by_force(tmp_path: Path, change: str) -> None:
    install("--user", config_home=tmp_path)
    service, socket = (tmp_path / "systemd/user" / f"embeddaemon.{kind}" for kind in ("service", "socket"))
    service.write_text(change if change == "not ours" else service.read_text() + change)
    socket.unlink()
    edited = service.read_text()
    done = install("--user", config_home=tmp_path)
    assert done.exit_code == 2
    assert f"{service}: changed since it was written" in done.output
    assert service.read_text() == edited
    assert not socket.exists(), "all or nothing"
    assert install("--user", "--force", config_home=tmp_path).exit_code == 0
    assert service.read_text() != edited


def test_config_file_stands_in_the_command_as_one_word(tmp_path: Path) -> None:
    config = tmp_path / 'a "b" 100% $HOME.toml'
    config.touch()
    install("--user", "--config", str(config), config_home=tmp_path)
    command = exec_start(tmp_path / "systemd/user/embeddaemon.service")
    assert command.endswith(f' serve --config "{tmp_path}/a \\"b\\" 100%% $$HOME.toml"')


def test_config_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = install("--user", "--config", str(tmp_path / "no.toml"), config_home=tmp_path)
    assert done.exit_code == 2
    assert "there is no such file" in done.output


@pytest.mark.parametrize("wrong", [["--with", "gpu"], ["--root", "/x"]])
def test_what_only_the_system_has_is_refused_for_a_user(tmp_path: Path, wrong: list[str]) -> None:
    assert install("--user", *wrong, config_home=tmp_path).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_program_in_a_home_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        ConfigError, match=r"(/home is hidden from it|others may not enter /home).*/opt/embeddaemon.*--user"
    ):
        check_reachable([Path("/home/ann/.venv/bin/python")], "Use /opt/embeddaemon, or --user")


def test_folder_that_others_may_not_enter_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=f"others may not enter {closed}"):
        check_reachable([closed / "bin/python"], "Move it")


def test_hidden_configuration_is_refused_with_advice_for_a_configuration(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.touch()
    done = install("--root", str(tmp_path), "--config", str(config))
    assert done.exit_code == 2
    assert f"could not use {config}" in done.output
    assert "/etc/embeddaemon/embeddaemon.toml" in done.output
    assert "venv" not in done.output


def test_program_that_everybody_finds_is_fine() -> None:
    check_reachable([Path("/usr/bin/env")], "Move it")


def test_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file where a folder should be")
    done = install_below(tmp_path)
    assert done.exit_code == 2
    assert f"{tmp_path / SERVICE} cannot be read: Not a directory" in done.output


def test_binary_file_in_the_place_of_a_unit_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / SERVICE).parent.mkdir(parents=True)
    (tmp_path / SERVICE).write_bytes(b"\xff\xfe")
    done = install_below(tmp_path)
    assert "overwrote" in done.output
