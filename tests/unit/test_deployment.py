"""The files that run it every night, in container and cluster, are true to the code, and their tools take them."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest

from uploader import __version__, secrets
from uploader.cli.commands import cli
from uploader.errors import ExitCode
from uploader.settings import Settings, settings_of

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
CRON = (CONFIG / "uploader.cron").read_text(encoding="utf-8")
COMPOSE_TEXT = (CONFIG / "compose.yaml").read_text(encoding="utf-8")
CLUSTER_TEXT = (CONFIG / "kubernetes.yaml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
CLUSTER = [document for document in yaml.safe_load_all(CLUSTER_TEXT) if document]
NIGHT = "2026-11-28"
# releases of Kubernetes that are in use; the schemas of the tests' package go further
RELEASES = ("1.31", "1.33")


def tool(name: str) -> str:
    """Return the path of a tool that a package of the tests brings; skip the test where it is not here."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here")
    return found


def typed(words: list[str]) -> click.Context:
    """Let the command line take words as they are typed."""
    command = cli.commands[words[0]]
    return command.make_context(words[0], words[1:], parent=click.Context(cli, info_name="uploader"))


def named(kind: str) -> list[dict[str, Any]]:
    """Return the cluster's objects of a kind."""
    return [document for document in CLUSTER if document["kind"] == kind]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the specification of each pod that runs the uploader, with its owner's kind."""
    for document in CLUSTER:
        spec = document.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template is not None and any("uploader" in each["image"] for each in template["spec"]["containers"]):
            yield document["kind"], template["spec"]


def script(container: Mapping[str, Any]) -> list[str]:
    """Return the words of a container's command, after cluster and shell have had theirs."""
    *shell, line = container["command"]
    assert shell == ["/bin/sh", "-c"]
    # a cluster takes $(NAME) for a variable of its own: $$ leaves it to the shell
    assert not re.search(r"(?<!\$)\$\(", line)
    words = shlex.split(line.replace("$$(date +%F)", NIGHT))
    # a shell that stays would keep the signals to itself
    assert words[:2] == ["exec", "uploader"]
    return words[2:]


def known_variables() -> set[str]:
    """Return the variables that the uploader reads, and those of the system beneath."""
    return {secrets.variable(name) for name in settings_of(Settings)} | {secrets.FOLDER_VARIABLE, "TZ"}


PODS = [pytest.param(spec, id=kind) for kind, spec in pods()]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("document", CLUSTER, ids=lambda document: document["kind"])
def test_the_clusters_objects_fit_their_schemas(document: dict[str, Any], release: str) -> None:
    """No field is misspelt, none is of another type, and none that is needed is missing."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    validate(document, release, strict=True)


@pytest.mark.parametrize(
    "profile", sorted({name for each in COMPOSE["services"].values() for name in each["profiles"]})
)
def test_dockers_own_tool_takes_the_compose_file(profile: str) -> None:
    """It resolves each profile, and finds nothing to say; every profile is named in the file's first lines."""
    command = [
        tool("docker-compose"),
        "--file",
        str(CONFIG / "compose.yaml"),
        "--profile",
        profile,
        "config",
        "--quiet",
    ]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f"--profile {profile} up" in COMPOSE_TEXT.partition("\nname:")[0]


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    """Docker's linter has nothing to say."""
    checked = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_the_image_is_of_one_release_and_says_which_it_has() -> None:
    """Both stages are of one base, which is no moving name; the label has the version of the code."""
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-[a-z]+$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert f'org.opencontainers.image.version="{__version__}"' in DOCKERFILE


@pytest.mark.parametrize("spec", PODS)
def test_what_a_pod_starts_can_be_typed(spec: dict[str, Any]) -> None:
    """Its words are taken by the command line, and its variables are read."""
    (container,) = spec["containers"]
    words = script(container)
    context = typed(words)
    assert words[0] == context.info_name == "run"
    assert NIGHT in " ".join(words)
    assert {variable["name"] for variable in container["env"]} <= known_variables()
    assert container["image"].endswith(f":{__version__}")


@pytest.mark.parametrize("spec", PODS)
def test_a_pod_may_do_nothing_but_its_work(spec: dict[str, Any]) -> None:
    """As the image's user, on a read-only root, without a capability or a token of the cluster."""
    (user, group) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
    context, (container,) = spec["securityContext"], spec["containers"]
    assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (True, int(user), int(group))
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("spec", PODS)
def test_a_pods_secrets_are_files_that_are_read(spec: dict[str, Any]) -> None:
    """They are mounted where the uploader looks, and the command that makes them names files of the secrets folder."""
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert mounts["secrets"] == str(secrets.FOLDER)
    name = volumes["secrets"]["secret"]["secretName"]
    made = re.findall(rf"kubectl create secret generic {name} (.*)", CLUSTER_TEXT)
    files = re.findall(r"--from-file=(\w+)", " ".join(made))
    assert {"uploader_app_id", "uploader_app_secret"} <= set(files)
    assert set(files) <= {secrets.variable(secret).lower() for secret in secrets.FROM_FILES}
    assert not {secrets.variable(secret) for secret in secrets.HIDDEN} & {each["name"] for each in container["env"]}
    # whatever is written there besides goes to memory or to a claim
    assert all(mounts[each] for each in volumes)


@pytest.mark.parametrize("spec", PODS)
def test_a_stop_outlasts_the_grace_time(spec: dict[str, Any]) -> None:
    """A kill within the uploads' grace would cost more than the time that it saves."""
    (container,) = spec["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    grace = float(given.get("UPLOADER_GRACE_SECONDS", Settings().grace_seconds))
    assert spec["terminationGracePeriodSeconds"] >= grace + 10


def test_the_nights_ledger_outlives_its_pods() -> None:
    """One night at a time; its claim is mounted where the image has its ledger."""
    (night,) = named("CronJob")
    assert night["spec"]["concurrencyPolicy"] == "Forbid"
    pod = night["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    claims = {volume["name"]: volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]}
    assert f"UPLOADER_LEDGER=sqlite:///{mounts['state']}/ledger.db" in DOCKERFILE
    assert {claims["state"], claims["data"]} <= {claim["metadata"]["name"] for claim in named("PersistentVolumeClaim")}


def test_every_exit_code_has_its_way_in_a_cluster() -> None:
    """What waits for a person ends the Job; all others are tried again, as long as there is a limit to it."""
    for document in CLUSTER:
        spec = document.get("spec", {}).get("jobTemplate", document).get("spec", {})
        if "podFailurePolicy" not in spec:
            continue
        rule, ignored = spec["podFailurePolicy"]["rules"]
        assert rule["action"] == "FailJob"
        waiting = {ExitCode(code) for code in rule["onExitCodes"]["values"]}
        again = set(ExitCode) - waiting - {ExitCode.DONE}
        assert again == {
            *(ExitCode.GAVE_UP, ExitCode.FAULT, ExitCode.HUNG_UP, ExitCode.INTERRUPTED, ExitCode.TERMINATED),
        }
        assert ignored["onPodConditions"][0]["type"] == "DisruptionTarget"
        assert 0 < spec["backoffLimit"] < 10


def test_what_compose_starts_can_be_typed() -> None:
    """Every container's words are taken by the command line, and its variables are read."""
    uploaders = {name: each for name, each in COMPOSE["services"].items() if each["image"] == "uploader"}
    assert set(uploaders) >= {"sandbox", "uploader"}
    for name, service in uploaders.items():
        assert typed(service["command"]).info_name == service["command"][0], name
        assert set(service.get("environment", {})) <= known_variables()
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_the_containers_of_compose_meet_where_the_sandbox_listens() -> None:
    """It listens on its own loopback: who shares its network reaches it, and has the name and secret that it takes."""
    services = COMPOSE["services"]
    port = int(typed(services["sandbox"]["command"]).params["port"])
    assert str(port) in " ".join(services["sandbox"]["healthcheck"]["test"])
    for name, service in services.items():
        if service["image"] == "uploader" and name != "sandbox":
            assert service["network_mode"] == "service:sandbox"
            assert service["environment"]["UPLOADER_BASE_URL"] == f"http://127.0.0.1:{port}"
            assert float(service["stop_grace_period"].removesuffix("s")) > Settings().grace_seconds + 10
            assert service["depends_on"]["sandbox"]["condition"] == "service_healthy"


def test_the_workers_of_a_cluster_share_one_ledger_over_one_claim() -> None:
    """Several pods run one command; their server has one claim, which stays, and the name in their secret's address."""
    (job,), (server,), (service,) = named("Job"), named("StatefulSet"), named("Service")
    assert job["spec"]["parallelism"] == job["spec"]["completions"] > 1
    assert job["spec"]["backoffLimit"] >= job["spec"]["parallelism"]
    assert server["spec"]["replicas"] == len(server["spec"]["volumeClaimTemplates"]) == 1
    assert set(server["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    assert server["spec"]["serviceName"] == service["metadata"]["name"]
    (container,) = server["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    parts = urlsplit(re.findall(r"postgresql://\S+", CLUSTER_TEXT)[0])
    assert parts.hostname == service["metadata"]["name"]
    assert (parts.username, parts.path) == (given["POSTGRES_USER"], f"/{given['POSTGRES_DB']}")
    assert "POSTGRES_PASSWORD" not in given


def test_the_workers_of_compose_share_one_ledger() -> None:
    """Three of one command, whose address of the ledger is that of the server beside them."""
    worker, server = COMPOSE["services"]["worker"], COMPOSE["services"]["postgres"]["environment"]
    assert worker["deploy"]["replicas"] == 3
    parts = urlsplit(worker["environment"]["UPLOADER_LEDGER"])
    named_in_address = (parts.username, parts.password, parts.hostname, parts.path.removeprefix("/"))
    expected = (server["POSTGRES_USER"], server["POSTGRES_PASSWORD"], "postgres", server["POSTGRES_DB"])
    assert named_in_address == expected
    assert worker["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_crons_line_can_be_typed() -> None:
    """Five fields, a user and a command, in which cron takes no percent sign for an end of line."""
    lines = [line for line in CRON.splitlines() if line and not line.startswith("#")]
    *variables, line = lines
    names = {entry.partition("=")[0] for entry in variables}
    assert names - {"SHELL", "MAILTO"} <= known_variables()
    *fields, user, command = line.split(maxsplit=6)
    assert len(fields) == 5
    assert all(re.fullmatch(r"\*|\d+", field) for field in fields)
    assert user == "uploader"
    assert not re.search(r"(?<!\\)%", command)
    # an error that nobody reads is none
    assert re.search(r" 2>>/\S+$", command)
    words = shlex.split(command.replace(r"$(date +\%F)", NIGHT).partition(" 2>>")[0])
    assert words[:2] == ["exec", "/opt/uploader/bin/uploader"]
    context = typed(words[2:])
    assert context.params["manifest"] == f"/data/calls-{NIGHT}.csv"
    assert context.params["ledger_must_exist"] is True
    assert CRON.endswith("\n"), "cron passes over a last line without an end"
