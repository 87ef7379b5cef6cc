"""deploy/: schemas hold, commands and variables exist, nobody is root who need not be, numbers agree with the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from embeddaemon.config import environment
from embeddaemon.config.settings import Settings
from embeddaemon.supervisor.stopping import STOP_SECONDS
from tests.support.chart import Chart
from tests.support.manifests import (
    CHART,
    DEPLOY,
    ROOT,
    Document,
    check_command,
    containers,
    documents,
    instructions,
    is_daemon,
    pod_commands,
    pod_of,
)

USER = 10_001
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
FOR_TEST_DEPENDENCIES = "comes with the dependency group `test`, which is not installed"

FULL: dict[str, Any] = {
    "config": '[models.mine]\nsource = "path:/models/mine"\n',
    "image": {"repository": "example/embeddaemon", "tag": "7", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "secret"}],
    "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
    "cache": {"persistentVolumeClaim": {"claimName": "fetched"}},
    "volumes": [{"name": "models", "hostPath": {"path": "/models"}}],
    "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "system-node-critical",
}
"""Another value for everything that has an empty one, and for what is a choice of Kubernetes'."""


def rendered(**values: Any) -> list[Document]:
    files = Chart(CHART).render(**values)
    return [each for name, text in files.items() if name.endswith(".yaml") for each in documents(text)]


def pod_with_sidecar(**values: Any) -> Document:
    """As the chart's README says to make it."""
    chart = Chart(CHART)
    app = {"name": "app", "image": "app", "command": ["app"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app"},
        "spec": {
            "initContainers": documents(chart.include("embeddaemon.sidecar", **values))[0],
            "containers": [app],
            "volumes": documents(chart.include("embeddaemon.volumes", **values))[0],
        },
    }


def everything() -> dict[str, Document]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    found = {path.name: each for path in files for each in documents(path.read_text())}
    for name, values in (("chart", {}), ("full chart", FULL)):
        found |= {f"{name}: {each['kind']}": each for each in rendered(**values)}
        found[f"{name}: sidecar"] = pod_with_sidecar(**values)
    return found


DOCUMENTS = everything()
PODS = {name: pod_of(each) for name, each in DOCUMENTS.items() if each["kind"] != "ConfigMap"}


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_what_kubernetes_takes(name: str, version: str) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason=FOR_TEST_DEPENDENCIES)
    schemas.validate(DOCUMENTS[name], version, strict=True)


def test_a_mistake_in_a_document_is_seen() -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason=FOR_TEST_DEPENDENCIES)
    wrong = json.loads(json.dumps(DOCUMENTS["sidecar.yaml"]))
    pod_of(wrong)["initContainers"][0]["restartPolicies"] = "Always"
    with pytest.raises(schemas.ValidationError, match="restartPolicies"):
        schemas.validate(wrong, "1.33", strict=True)


@pytest.mark.parametrize("name", PODS)
def test_commands_and_variables_of_a_pod_are_ours(name: str) -> None:
    for arguments in pod_commands(PODS[name]):
        check_command(arguments)
    for container in containers(PODS[name]):
        variables = {each["name"]: each["value"] for each in container.get("env", [])}
        assert environment.read(variables, Path("/")).ignored == ()


@pytest.mark.parametrize(
    "arguments", [["serves"], ["serve", "--memory"], ["status", "--timeout", "soon"], ["embed", "-x"]]
)
def test_command_that_is_not_ours_is_seen(arguments: list[str]) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check_command(arguments)


@pytest.mark.parametrize("name", PODS)
def test_container_may_do_nothing_that_it_need_not(name: str) -> None:
    for container in containers(PODS[name]):
        if container["name"] == "app" and container["image"] == "app":
            continue  # not ours
        given = container["securityContext"]
        assert given["allowPrivilegeEscalation"] is False
        assert given["readOnlyRootFilesystem"] is True
        assert given["capabilities"]["drop"] == ["ALL"]
        if container["name"] == "folder":
            assert given["capabilities"]["add"] == ["CHOWN", "FOWNER"]
        else:
            assert "add" not in given["capabilities"]
            assert given["runAsUser"] > 0
        assert container["resources"]["limits"]["memory"]
        outer = PODS[name].get("securityContext", {})
        assert (given.get("seccompProfile") or outer["seccompProfile"]) == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("name", PODS)
def test_daemon_of_a_pod_is_asked_how_it_is_and_has_time_to_drain(name: str) -> None:
    pod = PODS[name]
    for daemon in filter(is_daemon, containers(pod)):
        # One model that cannot be loaded must not have the daemon killed that serves the others.
        asks = {"startupProbe": "status", "livenessProbe": "status", "readinessProbe": "health"}
        for probe, asked in asks.items():
            _, command, _, timeout_seconds = daemon[probe]["exec"]["command"]
            assert command == asked
            assert float(timeout_seconds) < daemon[probe]["timeoutSeconds"]
        assert (daemon["securityContext"]["runAsUser"], daemon["securityContext"]["runAsGroup"]) == (USER, USER)
        assert {"/run/embeddaemon", "/var/lib/embeddaemon"} <= {each["mountPath"] for each in daemon["volumeMounts"]}
        drain_seconds = Settings(endpoint="ipc:///s", models=(), default_model="").drain_seconds
        grace = pod.get("terminationGracePeriodSeconds")
        assert grace is None or grace > drain_seconds + 2 * STOP_SECONDS
    volumes = {each["name"] for each in pod["volumes"]}
    assert {each["name"] for one in containers(pod) for each in one.get("volumeMounts", [])} <= volumes


@pytest.mark.parametrize("name", PODS)
def test_fetched_models_have_a_volume_and_in_it_a_folder_that_nobody_else_may_write(name: str) -> None:
    (variable,) = re.findall(r"HF_HOME=(\S+)", (DEPLOY / "Dockerfile").read_text())
    for daemon in filter(is_daemon, containers(PODS[name])):
        (mount,) = (each for each in daemon["volumeMounts"] if Path(variable).is_relative_to(each["mountPath"]))
        (maker,) = (each for each in PODS[name]["initContainers"] if each["name"] == "cache")
        (whole,) = maker["volumeMounts"]
        assert (whole["name"], "subPath" in whole, mount.get("readOnly", False)) == (mount["name"], False, False)
        # A volume itself may be open to all, which the daemon does not take models from.
        assert maker["command"] == ["mkdir", "-p", "-m", "0750", f"{whole['mountPath']}/{mount['subPath']}"]
        assert maker["securityContext"]["runAsUser"] == daemon["securityContext"]["runAsUser"]
        assert "restartPolicy" not in maker, "the daemon must not start before the folder is there"


@pytest.mark.parametrize("name", ["sidecar.yaml", "chart: sidecar", "full chart: sidecar"])
def test_sidecar_starts_before_the_application_and_makes_a_folder_for_its_socket(name: str) -> None:
    (sidecar,) = (each for each in PODS[name]["initContainers"] if is_daemon(each))
    assert sidecar["restartPolicy"] == "Always"
    endpoint = next(each["value"] for each in sidecar["env"] if each["name"] == "EMBEDDAEMON_ENDPOINT")
    # Everybody may write to the volume itself, and such a folder the daemon refuses.
    assert re.fullmatch(r"ipc:///run/embeddaemon/\w+/embeddaemon\.sock", endpoint)


def test_group_of_the_socket_is_that_of_its_users() -> None:
    assert PODS["sidecar.yaml"]["securityContext"]["fsGroup"] == USER
    assert f"supplementalGroups: [{USER}]" in (DEPLOY / "kubernetes/daemonset.yaml").read_text()
    assert PODS["chart: Pod"]["securityContext"]["supplementalGroups"] == [USER]


def test_versions_are_those_of_the_project() -> None:
    about = Chart(CHART).about
    assert (about["version"], about["appVersion"]) == (VERSION, VERSION)
    images = {
        one["image"]
        for name in ("sidecar.yaml", "daemonset.yaml", "chart: DaemonSet")
        for one in containers(PODS[name])
    }
    assert images == {f"embeddaemon:{VERSION}"}


@pytest.mark.parametrize("page", ["deploy/Dockerfile", "docs/deployment.md"])
def test_image_is_built_under_the_names_that_the_documents_want(page: str) -> None:
    builds = re.findall(r"docker build (.+) \.", (ROOT / page).read_text())
    assert builds
    (compose,) = documents((DEPLOY / "compose.yaml").read_text())
    wanted = {f"embeddaemon:{VERSION}", *(each["image"] for each in compose["services"].values())}
    assert [set(re.findall(r"--tag (\S+)", build)) for build in builds] == [wanted] * len(builds)


class TestChart:
    """Values, their schema, and Helm itself where it is."""

    @pytest.mark.parametrize("values", [{}, FULL, {"daemonset": {"enabled": False}}])
    def test_values_are_as_the_schema_wants_them(self, values: Document) -> None:
        assert problems(values) == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"memoryBudget": "120%"},
            {"memoryBudget": "much"},
            {"resources": {"requests": {"cpu": "1"}}},
            {"user": 0},
            {"hostPath": "run/embeddaemon"},
            {"terminationGracePeriodSeconds": 10},
            {"image": {"tag": "1"}},
            {"daemonSet": {"enabled": True}},
            {"cache": {"emptyDir": {}, "hostPath": {"path": "/models"}}},
        ],
    )
    def test_wrong_value_is_refused(self, wrong: Document) -> None:
        assert problems(wrong) != []

    def test_every_value_has_a_schema_and_is_used(self) -> None:
        schema = json.loads((CHART / "values.schema.json").read_text())
        assert set(schema["properties"]) - {"global"} == set(Chart(CHART).values)
        text = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
        assert set(re.findall(r"\.Values\.(\w+)", text)) == set(Chart(CHART).values)

    def test_without_a_daemonset_there_is_the_configuration_alone(self) -> None:
        without = {"daemonset": {"enabled": False}}
        assert rendered(**without) == []
        assert [each["kind"] for each in rendered(**{**FULL, **without})] == ["ConfigMap"]

    def test_configuration_is_taken_over_as_it_is(self) -> None:
        (configuration,) = (each for each in rendered(**FULL) if each["kind"] == "ConfigMap")
        assert tomllib.loads(configuration["data"]["embeddaemon.toml"]) == tomllib.loads(FULL["config"])

    @pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed; tests/support/chart.py stands in")
    def test_helm_has_no_word_against_it_and_renders_the_same(self, tmp_path: Path) -> None:
        values = tmp_path / "values.json"
        values.write_text(json.dumps(FULL))
        helm(tmp_path, "lint", "--strict", str(CHART), "--values", str(values))
        text = helm(tmp_path, "template", "test", str(CHART), "--values", str(values))
        theirs = {each["kind"]: each for each in documents(text)}
        assert theirs == {each["kind"]: each for each in rendered(**FULL)}


def helm(home: Path, *arguments: str) -> str:
    program = str(shutil.which("helm"))
    done = subprocess.run([program, *arguments], env={"HOME": str(home)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def problems(values: Document) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema", reason=FOR_TEST_DEPENDENCIES)
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    return [error.message for error in validator.iter_errors({**Chart(CHART).values, **values})]


class TestCompose:
    """The compose file."""

    @pytest.fixture
    def services(self) -> Document:
        (compose,) = documents((DEPLOY / "compose.yaml").read_text())
        services: Document = compose["services"]
        return services

    def test_it_is_what_compose_takes(self) -> None:
        pytest.importorskip("check_jsonschema", reason=FOR_TEST_DEPENDENCIES)
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
        done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_its_commands_are_ours(self, services: Document) -> None:
        check_command(services["embeddaemon"]["command"])
        kind, program, *check = services["embeddaemon"]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "embeddaemon")
        check_command(check)
        assert services["app"]["entrypoint"].pop(0) == "embeddaemon"
        check_command(services["app"]["entrypoint"])

    def test_application_and_daemon_share_the_socket_and_its_group(self, services: Document) -> None:
        for service in services.values():
            assert [each for each in service["volumes"] if each.startswith("socket:/run/embeddaemon")]
        assert services["app"]["group_add"] == [str(USER)]

    def test_daemon_is_bounded_and_may_do_nothing_that_it_need_not(self, services: Document) -> None:
        daemon = services["embeddaemon"]
        assert daemon["read_only"] is True
        assert daemon["cap_drop"] == ["ALL"]
        assert daemon["mem_limit"] == daemon["memswap_limit"]
        drain_seconds = Settings(endpoint="ipc:///s", models=(), default_model="").drain_seconds
        assert int(daemon["stop_grace_period"].removesuffix("s")) > drain_seconds + 2 * STOP_SECONDS


class TestDockerfile:
    """The image."""

    @pytest.fixture
    def found(self, tmp_path: Path) -> Any:
        parser = pytest.importorskip("dockerfile_parse", reason=FOR_TEST_DEPENDENCIES)
        shutil.copy(DEPLOY / "Dockerfile", tmp_path / "Dockerfile")
        return instructions(parser.DockerfileParser(str(tmp_path)).structure)

    def test_what_is_copied_is_there_and_nothing_else_is_sent_to_the_builder(self, found: Any) -> None:
        copied = [
            source
            for each in found
            if each.name == "COPY" and not each.value.startswith("--from")
            for source in each.words[:-1]
        ]
        assert [name for name in copied if not (ROOT / name).exists()] == []
        let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
        assert sorted(let_in) == sorted(copied)
        assert "\n*\n" in (ROOT / ".dockerignore").read_text()

    def test_image_runs_as_nobody_we_know_and_without_a_shell(self, found: Any) -> None:
        last = {each.name: each for each in found if each.stage == found[-1].stage}
        assert last["USER"].value == f"{USER}:{USER}"
        assert last["ENTRYPOINT"].words == ["embeddaemon"]
        assert last["ENTRYPOINT"].value.startswith("[")
        check_command(last["CMD"].words)
        assert last["STOPSIGNAL"].value == "SIGTERM"

    def test_health_check_is_a_command_of_ours(self, found: Any) -> None:
        (check,) = (each.value for each in found if each.name == "HEALTHCHECK")
        program, *arguments = json.loads(check[check.index("[") :])
        assert program == "embeddaemon"
        check_command(arguments)

    def test_what_is_installed_is_pinned_and_the_tools_stay_in_the_first_stage(self, found: Any) -> None:
        stages = {each.stage for each in found}
        assert len(stages - {-1}) == 2
        assert not [each for each in found if each.name == "RUN" and each.stage == max(stages)]
        assert [each for each in found if each.name == "ENV" and "PIP_CONSTRAINT=/src/constraints.txt" in each.value]
        assert not [each for each in found if each.name == "ADD"]

    def test_variables_are_ours_and_hold_no_secret(self, found: Any) -> None:
        pairs = [word.partition("=") for each in found if each.name in {"ENV", "ARG"} for word in each.words]
        names = {name: value for name, _, value in pairs}
        assert not [name for name in names if re.search("TOKEN|SECRET|PASSWORD|CREDENTIAL", name)]
        assert environment.read(names, Path("/")).ignored == ()
        assert names["EMBEDDAEMON_ENDPOINT"] == "ipc:///run/embeddaemon/embeddaemon.sock"

    @pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
    def test_hadolint_has_no_word_against_it(self) -> None:
        done = subprocess.run(["hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
