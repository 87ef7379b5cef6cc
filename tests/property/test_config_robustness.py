"""Whatever is written into files, variables and flags: settings, or a ConfigError."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embeddaemon.config import file, loading
from embeddaemon.config.environment import VARIABLES
from embeddaemon.config.flags import Flags
from embeddaemon.config.given import Text
from embeddaemon.config.kinds import Wrong
from embeddaemon.config.model_source import parse_source
from embeddaemon.config.options import DAEMON, LIMITS, MODEL, TABLES
from embeddaemon.errors import ConfigError

_QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_WORDS = st.sampled_from(
    ["auto", "-1", "0", "5m", "8GiB", "80%", "cpu", "path:/x", "hub:a/b", "true", "é", "\0", "\ud800"]
)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | _WORDS | st.datetimes()
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_KEYS = st.sampled_from([*DAEMON, *LIMITS, *MODEL]) | st.text(max_size=8)


@_QUICK
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_file_crashes_the_reader(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    with suppress(ConfigError):
        loading.load_settings(config_file=path, environment={}, flags=Flags())


@_QUICK
@given(
    tables=st.dictionaries(
        st.sampled_from(TABLES) | st.text(max_size=8),
        _VALUES | st.dictionaries(_KEYS, _VALUES | st.dictionaries(_KEYS, _VALUES, max_size=3), max_size=3),
        max_size=3,
    )
)
def test_no_table_crashes_the_reader(tables: dict[str, object]) -> None:
    with suppress(ConfigError):
        file.flatten(tables, "a.toml", Path("/x"))


@_QUICK
@given(data=st.data())
def test_no_value_crashes_its_kind(data: st.DataObject) -> None:
    for option in (*DAEMON.values(), *LIMITS.values(), *MODEL.values()):
        value = data.draw(_VALUES | st.text(max_size=12).map(Text))
        with suppress(Wrong, ConfigError):
            option.kind(value)


@_QUICK
@given(
    environment=st.dictionaries(
        st.sampled_from(sorted(VARIABLES)) | st.sampled_from(["EMBEDDAEMON_MODELS", "HOME", "EMBEDDAEMON_X"]),
        st.text(max_size=12) | _WORDS,
        max_size=4,
    ),
    models=st.lists(st.text(max_size=12) | st.sampled_from(["a=path:/b", "a=hub:x/y", "="]), max_size=3),
)
def test_no_variable_and_no_flag_crashes_the_loader(
    tmp_path: Path, environment: dict[str, str], models: list[str]
) -> None:
    with suppress(ConfigError):
        loading.load(
            config_file=None,
            environment=environment,
            flags=Flags(models=tuple(models)),
            folder=tmp_path,
            system_file=tmp_path / "none.toml",
        )


@_QUICK
@given(written=st.text(max_size=300) | _WORDS, home=st.none() | st.just("/home/ann"))
def test_no_source_crashes_its_reader(written: str, home: str | None) -> None:
    try:
        source = parse_source(written, Path("/base"), home)
    except Wrong:
        return
    assert source.partition(":")[0] in {"package", "path", "hub"}
