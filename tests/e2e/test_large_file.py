"""``embeddaemon embed`` on a file that is larger than anything in memory: constant memory, one row per line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support.daemon import running_daemon, stub_folder
from tests.support.waiting import seconds

MIB = 1024 * 1024


@pytest.mark.parametrize("lines", [20_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_embedding_a_large_file_takes_constant_memory(socket_folder: Path, tmp_path: Path, lines: int) -> None:
    texts, rows = tmp_path / "texts.txt", tmp_path / "rows.npy"
    with texts.open("w") as file:
        file.writelines(f"line number {number}\n" for number in range(lines))
    models = [{"name": "stub", "source": f"path:{stub_folder(tmp_path / 'm')}"}]
    with running_daemon(socket_folder, models=models) as daemon:
        command = [sys.executable, "-m", "embeddaemon", "embed", "-i", str(texts), "-o", str(rows)]
        endpoint = ["--endpoint", daemon.endpoint]
        process = subprocess.Popen([*command, *endpoint], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        client, supervisor = psutil.Process(process.pid), psutil.Process(daemon.process.pid)
        peaks = {client: 0, supervisor: 0}
        while process.poll() is None:
            for each, peak in peaks.items():
                try:
                    peaks[each] = max(peak, each.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == 0, process.communicate(timeout=seconds(5))[1]
        process.communicate()
        sys.stdout.write(f"{lines} lines: client {peaks[client] >> 20} MiB, daemon {peaks[supervisor] >> 20} MiB\n")
        assert np.load(rows, mmap_mode="r").shape == (lines, 8)
        assert peaks[client] < 100 * MIB
        assert peaks[supervisor] < 80 * MIB
