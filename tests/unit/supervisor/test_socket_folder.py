"""The folder of the socket and the folders on the way there: made, taken as they are, or refused with what to do."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embeddaemon.errors import ConfigError
from embeddaemon.supervisor.connections.folder import prepare_folder
from tests.support.raw_peer import as_user

ANOTHER = 61_240
ROOT = Path(__file__).parents[3]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to another user needs root")


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare_folder(folder, 0o750)
    return caught.value.message


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_missing_folders_are_made_for_us_to_write_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert prepare_folder(tmp_path / "a" / "b" / "c", 0o751)
    finally:
        os.umask(before)
    assert [mode(tmp_path / each) for each in ("a", "a/b", "a/b/c")] == [0o755, 0o755, 0o751]
    assert not prepare_folder(tmp_path / "a" / "b" / "c", 0o750)
    assert mode(tmp_path / "a/b/c") == 0o751, "what was there was changed"


@pytest.mark.parametrize(("bits", "who"), [(0o777, "everybody"), (0o775, "group ")])
def test_folder_above_that_others_may_write_is_refused_with_what_to_do(tmp_path: Path, bits: int, who: str) -> None:
    above = tmp_path / "above"
    prepare_folder(above / "between" / "own", 0o750)
    above.chmod(bits)
    said = refusal(above / "between" / "own")
    assert said.startswith(who)
    assert f"chmod go-w {above}" in said
    assert f"chmod +t {above}" in said
    above.chmod(bits | 0o1000)
    assert not prepare_folder(above / "between" / "own", 0o750)


def test_nothing_is_made_where_others_could_replace_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    refusal(tmp_path / "own")
    assert not (tmp_path / "own").exists()


@needs_root
def test_folder_above_that_belongs_to_another_user_is_refused_with_what_to_do(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir(0o755)
    os.chown(above, ANOTHER, -1)
    said = refusal(above / "own")
    assert f"belongs to user {ANOTHER}" in said
    assert f"chown root {above}" in said


def test_way_leads_through_links_to_the_folders_behind_them(tmp_path: Path) -> None:
    real = tmp_path / "real"
    prepare_folder(real / "below" / "own", 0o750)
    (tmp_path / "link").symlink_to("real/below/../below")
    assert not prepare_folder(tmp_path / "link" / "own", 0o750)
    real.chmod(0o777)
    assert f"chmod go-w {real}" in refusal(tmp_path / "link" / "own")
    (tmp_path / "ring").symlink_to("ring")
    assert "links" in refusal(tmp_path / "ring" / "own")


@needs_root
def test_link_of_another_user_is_refused_since_he_may_turn_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o755)
    (tmp_path / "link").symlink_to("real")
    os.lchown(tmp_path / "link", ANOTHER, -1)
    assert f"{tmp_path / 'link'}, on the way to the socket, belongs to user {ANOTHER}" in refusal(tmp_path / "link/own")


@needs_root
@pytest.mark.skipif(sys.platform != "linux", reason="a link that only some may read is Linux's")
def test_way_through_a_link_that_we_may_not_read_is_refused(tmp_path: Path) -> None:
    behind = Path(f"/proc/{os.getpid()}/root{tmp_path}/own")
    with as_user(ANOTHER, (ANOTHER,), lambda: refusal(behind).encode()) as said:
        assert b"cannot be made: [Errno 13]" in said


_IN_A_CONTAINER = """
import subprocess, sys
from pathlib import Path
from embeddaemon.supervisor.connections.folder import prepare_folder
volume = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0777", "none", str(volume)], check=True)
assert prepare_folder(volume / "own", 0o750)
(volume / "open").mkdir(0o777)
(volume / "open").chmod(0o777)
try:
    prepare_folder(volume / "open" / "own", 0o750)
except Exception as error:
    print(error)
"""


@needs_root
def test_volume_of_a_container_may_be_writable_by_everybody_but_not_what_is_in_it(tmp_path: Path) -> None:
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no namespaces can be made here")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", _IN_A_CONTAINER, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"chmod go-w {tmp_path}/open" in done.stdout


@needs_root
@pytest.mark.skipif(sys.platform != "linux", reason="user namespaces are Linux's")
def test_roots_folders_are_trusted_where_root_has_no_number(socket_folder: Path) -> None:
    """As in many a sandbox: what is root's seems to belong to nobody."""
    socket_folder.chmod(0o1777)

    def prepare() -> bytes:
        libc = ctypes.CDLL(None)
        libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: a process that has changed its user may not map it
        if libc.unshare(0x10000000):  # CLONE_NEWUSER
            return b"not permitted"
        Path("/proc/self/uid_map").write_text(f"{ANOTHER} {ANOTHER} 1")
        assert socket_folder.stat().st_uid not in (0, ANOTHER)
        return str(prepare_folder(socket_folder / "own", 0o750)).encode()

    with as_user(ANOTHER, (ANOTHER,), prepare) as outcome:
        if outcome == b"not permitted":
            pytest.skip("no namespaces can be made here")
        assert outcome == b"True"
