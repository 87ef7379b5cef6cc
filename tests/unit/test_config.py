"""Configuration: layers, values, and every mistake with the words it is answered with."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from embeddaemon.config import loading, report
from embeddaemon.config.flags import Flags
from embeddaemon.config.loading import Loaded
from embeddaemon.config.settings import LogFormat, Settings, StartMethod
from embeddaemon.errors import ConfigError
from embeddaemon.models.spec import Pooling, WorkerBounds

MINI = '[models.mini]\nsource = "path:/models/mini"\n'


def load(
    folder: Path,
    toml: str | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Flags | None = None,
) -> Loaded:
    file = None
    if toml is not None:
        file = folder / "embeddaemon.toml"
        file.write_text(toml)
    return loading.load(
        config_file=file,
        environment=environment or {},
        flags=flags or Flags(),
        folder=folder,
        system_file=folder / "system.toml",
        uid=1000,
    )


def settings(folder: Path, toml: str) -> Settings:
    return load(folder, toml).settings


def test_bundled_model_is_served_when_none_is_configured(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert [spec.name for spec in loaded.settings.models] == ["all-MiniLM-L6-v2"]
    assert loaded.settings.default_model == "all-MiniLM-L6-v2"
    assert loaded.settings.endpoint == "ipc:///tmp/embeddaemon-1000/embeddaemon.sock"
    assert loaded.files == ()
    assert loaded.origins == {}


def test_every_key_of_a_file_reaches_the_settings(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        """
        [daemon]
        endpoint = "/run/user/7/e.sock"
        default_model = "big"
        memory_budget = "2GiB"
        memory_reserve = 0
        start_method = "spawn"
        max_queued_requests = 7
        max_queued_bytes = "64MiB"
        request_timeout = "1m"
        drain_timeout = 5
        load_timeout = "1h30m"
        heartbeat_interval = 0.25
        silent_timeout = "10s"
        log_format = "json"
        log_level = "debug"
        exit_with_parent = true
        [limits]
        max_texts = 10
        max_text_bytes = "1KiB"
        max_body_bytes = 65536
        max_ids = 100
        [models.mini]
        source = "path:models/mini"
        [models.big]
        source = "hub:org/name@main"
        device = "cuda:1"
        precision = "float16"
        estimate = "1.5GiB"
        keep_alive = "-1"
        pinned = true
        preload = true
        workers = { min = 1, max = 4 }
        threads = 2
        token_budget = 4096
        max_tokens = 256
        pooling = ["mean", "cls"]
        normalize = false
        prompts = { query = "query: ", document = "" }
        default_task = "query"
        dimensions = [128, 256]
        sha256 = { "a.safetensors" = "53AA51172D142C89D9012CCE15AE4D6CC0CA6895895114379CACB4FAB128D9DB" }
        weights = "sealed"
        """,
    )
    told = loaded.settings
    assert told.endpoint == "ipc:///run/user/7/e.sock"
    assert (told.memory_budget, told.memory_reserve) == ("2GiB", 0)
    assert told.start_method is StartMethod.SPAWN
    assert (told.max_queued_requests, told.max_queued_bytes) == (7, 64 * 1024**2)
    assert (told.request_timeout_seconds, told.drain_seconds, told.load_timeout_seconds) == (60, 5, 5400)
    assert (told.heartbeat_seconds, told.silent_after_seconds) == (0.25, 10)
    assert (told.log_format, told.log_level, told.exit_with_parent) == (LogFormat.JSON, "debug", True)
    limits = told.limits
    assert (limits.max_texts, limits.max_text_bytes, limits.max_body_bytes, limits.max_ids) == (10, 1024, 65536, 100)
    mini, big = told.models
    assert mini.source == f"path:{tmp_path}/models/mini"
    assert told.default_model == big.name == "big"
    assert (big.source, big.device, big.precision) == ("hub:org/name@main", "cuda:1", "float16")
    assert (big.estimate, big.keep_alive_seconds, big.stays_for_ever) == (1536 * 1024**2, math.inf, True)
    assert (big.pinned, big.preload, big.workers) == (True, True, WorkerBounds(min=1, max=4))
    assert (big.threads, big.token_budget, big.max_tokens) == (2, 4096, 256)
    assert (big.pooling, big.normalize) == ((Pooling.MEAN, Pooling.CLS), False)
    assert (big.prompts, big.default_task) == ({"query": "query: ", "document": ""}, "query")
    assert big.dimensions == (256, 128)
    assert big.sha256 == {"a.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}
    assert big.weights == "sealed"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ('"5m"', 300.0),
        ('"0"', 0.0),
        ("0", 0.0),
        ('"-1"', math.inf),
        ("-1", math.inf),
        ('"-5m"', math.inf),
        ("90", 90.0),
        ("1.5", 1.5),
        ('"500ms"', 0.5),
        ('"1h30m"', 5400.0),
        ('"1.5h"', 5400.0),
    ],
)
def test_keep_alive_is_read_as_ollama_reads_it(tmp_path: Path, written: str, seconds: float) -> None:
    assert settings(tmp_path, f"{MINI}keep_alive = {written}").models[0].keep_alive_seconds == seconds


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        # shape
        ("daemon = 3", ["daemon = 3", "must be a table"]),
        ("[deamon]", ["unknown table 'deamon'", "did you mean 'daemon'?"]),
        ("log_level = 'info'", ["unknown key 'log_level'", "[daemon]"]),
        ("[daemon]\nlog_levle = 'info'", ["daemon.log_levle", "did you mean 'log_level'?", "endpoint"]),
        ("[limits]\nmax_text = 3", ["limits.max_text = 3", "did you mean 'max_texts'?"]),
        ("[models]\nmini = 'x'", ["models.mini = 'x'", "must be a table"]),
        ("[models.mini]", ["models.mini is empty", "source"]),
        ("[models.mini]\ndevice = 'cpu'", ["models.mini.source is missing"]),
        (f"{MINI}estimat = 3", ["models.mini.estimat = 3", "did you mean 'estimate'?"]),
        ("[models.'a b']\nsource = 'path:/x'", ['models."a b"', "name"]),
        ("[models.'']\nsource = 'path:/x'", ['models.""', "name"]),
        # duplicates, and what is no TOML at all
        (f"{MINI}{MINI}", ["is not TOML"]),
        ("[daemon]\nlog_level = 'info'\nlog_level = 'debug'", ["is not TOML"]),
        ("[daemon", ["is not TOML"]),
        ("a = " + "[" * 5000, ["is not TOML"]),
        ("[daemon]\nmax_queued_requests = " + "9" * 5000, ["embeddaemon.toml"]),
        # daemon
        ("[daemon]\nendpoint = 'tcp://0.0.0.0:1'", ["daemon.endpoint = 'tcp://0.0.0.0:1'", "tcp_endpoint"]),
        ("[daemon]\nendpoint = ''", ["daemon.endpoint = ''", "not empty"]),
        (f"[daemon]\nendpoint = '/{'x' * 200}'", ["daemon.endpoint", "107"]),
        (f"[daemon]\ndefault_model = 'minni'\n{MINI}", ["daemon.default_model = 'minni'", "did you mean 'mini'?"]),
        ("[daemon]\nmemory_budget = '101%'", ["daemon.memory_budget = '101%'", "80%", "8GiB"]),
        ("[daemon]\nmemory_budget = 0", ["daemon.memory_budget = 0"]),
        ("[daemon]\nmemory_budget = true", ["daemon.memory_budget = True"]),
        ("[daemon]\nmemory_reserve = -1", ["daemon.memory_reserve = -1", "must be from 0"]),
        ("[daemon]\nstart_method = 'forkserver'", ["'forkserver'", "must be one of fork, spawn"]),
        ("[daemon]\nmax_queued_requests = 0", ["= 0", "whole number from 1"]),
        ("[daemon]\nmax_queued_requests = true", ["= True", "whole number from 1"]),
        ("[daemon]\nmax_queued_requests = '5'", ["= '5'", "whole number from 1"]),
        ("[daemon]\nrequest_timeout = 0", ["daemon.request_timeout = 0", "seconds"]),
        ("[daemon]\nrequest_timeout = 'soon'", ["'soon'", "1h30m"]),
        ("[daemon]\nrequest_timeout = nan", ["nan"]),
        ("[daemon]\nrequest_timeout = inf", ["inf"]),
        ("[daemon]\nsilent_timeout = 1\nheartbeat_interval = 1", ["daemon.silent_timeout", "twice"]),
        ("[daemon]\nlog_format = 'xml'", ["'xml'", "text, json"]),
        ("[daemon]\nlog_level = 'loud'", ["'loud'", "debug, info, warning, error"]),
        ("[daemon]\nexit_with_parent = 'yes'", ["'yes'", "true or false"]),
        # limits
        ("[limits]\nmax_texts = 0", ["limits.max_texts = 0"]),
        ("[limits]\nmax_text_bytes = '9MiB'", ["max_text_bytes", "max_body_bytes"]),
        # models
        ("[models.m]\nsource = 3", ["models.m.source = 3", "text"]),
        ("[models.m]\nsource = 'path:'", ["'path:'", "package:NAME"]),
        ("[models.m]\nsource = 'hub:name'", ["'hub:name'", "hub:ORG/NAME"]),
        ("[models.m]\nsource = 'org/name'", ["'org/name'", "write hub:org/name"]),
        ("[models.m]\nsource = 'pathh:/x'", ["'pathh:/x'", "path:DIR"]),
        ('[models.m]\nsource = "path:/a\\u0000b"', ["NUL"]),
        (f"{MINI}estimate = 0", ["models.mini.estimate = 0", "positive"]),
        (f"{MINI}estimate = -1", ["models.mini.estimate = -1", "positive"]),
        (f"{MINI}estimate = 'lots'", ["models.mini.estimate = 'lots'", '"auto"', "1.2GiB"]),
        (f"{MINI}estimate = true", ["models.mini.estimate = True"]),
        (f"{MINI}estimate = 1.5", ["models.mini.estimate = 1.5"]),
        (f"{MINI}estimate = '0GiB'", ["'0GiB'"]),
        (f"{MINI}keep_alive = 'always'", ["'always'", "-1 for ever"]),
        (f"{MINI}keep_alive = true", ["True", "-1 for ever"]),
        (f"{MINI}device = 'gpu'", ["'gpu'", "cuda:N"]),
        (f"{MINI}precision = 'int4'", ["'int4'", "bfloat16"]),
        (f"{MINI}precision = 'int8'\ndevice = 'cuda'", ["precision = 'int8'", "not computed on cuda", "float16"]),
        (f"{MINI}precision = 'float16'\ndevice = 'cpu'", ["precision = 'float16'", "not computed on cpu", "int8"]),
        (f"{MINI}workers = 0", ["models.mini.workers = 0", "{ min = 1, max = 4 }"]),
        (f"{MINI}workers = {{ min = 3, max = 2 }}", ["max must be at least min"]),
        (f"{MINI}workers = {{ mni = 3 }}", ["unknown key 'mni'", "did you mean 'min'?"]),
        (f"{MINI}threads = 0", ["models.mini.threads = 0"]),
        (f"{MINI}pooling = 'average'", ["'average'", "mean"]),
        (f"{MINI}pooling = []", ["models.mini.pooling = []"]),
        (f"{MINI}prompts = 'query: '", ["models.mini.prompts", "table"]),
        (f"{MINI}prompts = {{ query = 3 }}", ["models.mini.prompts", "text"]),
        (f"{MINI}prompts = {{ query = 'q' }}\ndefault_task = 'doc'", ["default_task = 'doc'", "known are query"]),
        (f"{MINI}dimensions = [128, 128]", ["twice"]),
        (f"{MINI}dimensions = [0]", ["models.mini.dimensions"]),
        (f"{MINI}sha256 = 'abc'", ["64 hexadecimal"]),
        (f"{MINI}sha256 = {{}}", ["must name the weights files"]),
        (f"{MINI}sha256 = {{ 'a.safetensors' = 'abc' }}", ["64 hexadecimal"]),
        (f"{MINI}weights = 'mapped'", ["'mapped'", "copied, sealed"]),
        (f"{MINI}pinned = 1", ["models.mini.pinned = 1", "true or false"]),
    ],
)
def test_mistake_names_file_key_value_and_what_is_allowed(tmp_path: Path, toml: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml)
    for word in words:
        assert word in caught.value.message
    if "silent_timeout" not in toml and "limits]\nmax_text_bytes" not in toml:
        assert "embeddaemon.toml" in caught.value.message


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"EMBEDDAEMON_LOG_LEVEL": "loud"}, ["environment EMBEDDAEMON_LOG_LEVEL: daemon.log_level = 'loud'"]),
        ({"EMBEDDAEMON_LOG_LEVLE": "info"}, ["EMBEDDAEMON_LOG_LEVLE", "did you mean EMBEDDAEMON_LOG_LEVEL?"]),
        ({"EMBEDDAEMON_MODEL": "a=b"}, ["did you mean EMBEDDAEMON_MODELS?"]),
        ({"EMBEDDAEMON_MODELS": "a=path:/a,a=path:/b"}, ["'a' is named twice"]),
        ({"EMBEDDAEMON_MODELS": "path:/a"}, ["NAME=SOURCE"]),
        ({"EMBEDDAEMON_MAX_TEXTS": "many"}, ["limits.max_texts = 'many'", "whole number"]),
        ({"EMBEDDAEMON_MAX_TEXTS": "9" * 5000}, ["whole number"]),
        ({"EMBEDDAEMON_EXIT_WITH_PARENT": "maybe"}, ["true or false"]),
        ({"EMBEDDAEMON_ENDPOINT": "/run/\udcff"}, ["valid Unicode"]),
        ({"EMBEDDAEMON_CONFIG": "/nowhere/e.toml"}, ["/nowhere/e.toml", "No such file"]),
        ({"XDG_CONFIG_HOME": "\0"}, [""]),
    ],
)
def test_mistake_in_the_environment_names_the_variable(
    tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    if environment == {"XDG_CONFIG_HOME": "\0"}:
        load(tmp_path, environment=environment)  # no such folder is no mistake
        return
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, environment=environment)
    for word in words:
        assert word in caught.value.message


def test_later_layers_go_before_earlier_ones_and_each_value_knows_its_origin(tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text(
        "[daemon]\nlog_level = 'error'\nlog_format = 'json'\nrequest_timeout = 5\n" + MINI
    )
    user = tmp_path / "home/.config/embeddaemon/embeddaemon.toml"
    user.parent.mkdir(parents=True)
    user.write_text("[daemon]\nlog_level = 'warning'\n[models.mini]\nthreads = 3\n")
    loaded = load(
        tmp_path,
        environment={
            "HOME": str(tmp_path / "home"),
            "EMBEDDAEMON_LOG_FORMAT": "text",
            "EMBEDDAEMON_MAX_TEXTS": "12",
            "EMBEDDAEMON_EXIT_WITH_PARENT": "1",
            "EMBEDDAEMON_DEFAULT_MODEL": "",
        },
        flags=Flags(models=("mini=package:other", f"second={tmp_path}"), log_level="debug"),
    )
    told = loaded.settings
    assert (told.log_level, told.log_format, told.request_timeout_seconds) == ("debug", LogFormat.TEXT, 5)
    assert told.limits.max_texts == 12
    assert told.exit_with_parent
    assert [(spec.name, spec.source, spec.threads) for spec in told.models] == [
        ("mini", "package:other", 3),
        ("second", f"path:{tmp_path}", None),
    ]
    assert loaded.files == (tmp_path / "system.toml", user)
    assert loaded.origins["daemon", "log_level"] == "flag --log-level"
    assert loaded.origins["daemon", "log_format"] == "environment EMBEDDAEMON_LOG_FORMAT"
    assert loaded.origins["daemon", "request_timeout"] == str(tmp_path / "system.toml")
    assert loaded.origins["models", "mini", "threads"] == str(user)


def test_variables_of_orchestrators_are_ignored_and_reported(tmp_path: Path) -> None:
    names = ("EMBEDDAEMON_PORT", "EMBEDDAEMON_SERVICE_HOST", "EMBEDDAEMON_SOMETHING_ELSE")
    assert load(tmp_path, environment=dict.fromkeys(names, "tcp://10.0.0.1:1")).ignored == names


def test_named_file_alone_is_read(tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text("[daemon]\nlog_level = 'error'")
    assert load(tmp_path, "[daemon]\nlog_format = 'json'").settings.log_level == "info"


def test_folder_and_large_file_are_refused_as_configuration(tmp_path: Path) -> None:
    large = tmp_path / "weights.safetensors"
    large.write_bytes(b"\0" * (2 * 1024 * 1024))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path, words in ((tmp_path, "cannot be read"), (large, "larger than"), (binary, "not UTF-8")):
        with pytest.raises(ConfigError, match=words):
            loading.load_settings(config_file=path, environment={}, flags=Flags())


def test_home_is_expanded_in_sources(tmp_path: Path) -> None:
    told = load(tmp_path, "[models.m]\nsource = 'path:~/mini'", {"HOME": "/home/ann"}).settings
    assert told.models[0].source == "path:/home/ann/mini"


def test_flag_model_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'a' is named twice"):
        load(tmp_path, flags=Flags(models=("a=path:/a", "a=path:/b")))


def test_shown_settings_can_be_read_again(tmp_path: Path) -> None:
    toml = MINI + 'keep_alive = -1\nprompts = { "a b" = "x\\u007F\\n" }\nworkers = {min = 1, max = 2}\n'
    first = load(tmp_path, toml)
    text = report.as_toml(report.rows(first))
    assert tomllib.loads(text)["models"]["mini"]["keep_alive"] == -1
    assert "# default" in text
    assert load(tmp_path, text).settings == first.settings
