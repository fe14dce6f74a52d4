"""The Helm chart: rendered by Helm, checked by the schemas of Kubernetes, and its commands run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import yaml

from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.contract.documents import ROOT
from tests.postgres import Cluster
from tests.service.callers import Caller
from tests.service.certificates import LOOPBACK, Issuer
from tests.service.forkserver import shared
from tests.service.processes import ServerProcess

CHART: Final = ROOT / "deploy" / "helm" / "keyauthority"
TOOL: Final = ROOT / ".venv-chart" / "bin" / "python"
VERSIONS: Final = ("1.27", "1.30", "1.37")
"""Of Kubernetes: the oldest that the chart names, and the newest whose schemas are known."""

needs_helm: Final = pytest.mark.skipif(  # in continuous integration it fails instead
    not TOOL.exists() and "CHART_REQUIRED" not in os.environ,
    reason="Helm's library is not installed: make .venv-chart/.tools",
)

TLS: Final = {"tls": {"secretName": "tls"}}
KEYS: Final = {"pepper": {"name": "keys"}, "auditKey": {"name": "keys"}}
POSTGRES: Final = {
    "replicaCount": 3,
    "store": {"engine": "postgresql", "postgresql": {"secretName": "database"}},
    "secrets": KEYS,
    **TLS,
}
MUTUAL_TLS: Final = {
    "tls": {"secretName": "tls", "clientCaKey": "ca.crt", "probeSecretName": "probe"},
    "callers": [{"san": "gateway.example.org", "permissions": ["keys:verify"]}],
}
CASES: Final[dict[str, dict[str, Any]]] = {
    "sqlite": TLS,
    "mesh": {"allowPlaintext": True},
    "mesh without http": {"allowPlaintext": True, "http": {"enabled": False}},
    "claim": {**TLS, "store": {"sqlite": {"existingClaim": "volume"}}},
    "first start": {**MUTUAL_TLS, "secrets": {"operatorKey": {"name": "first-operator"}}},
    "later start": {**MUTUAL_TLS, "secrets": KEYS, "mustExist": True},
    "postgres": POSTGRES,
    "names of digits": {
        "store": {"engine": "postgresql", "postgresql": {"secretName": "1"}},
        "secrets": {"pepper": {"name": "2"}, "auditKey": {"name": "3"}},
        "tls": {"secretName": "4", "clientCaKey": "ca.crt", "probeSecretName": "5"},
    },
    "claim of digits": {**TLS, "store": {"sqlite": {"existingClaim": "6"}}},
    "all": {
        **POSTGRES,
        **MUTUAL_TLS,
        "workers": 2,
        "mustExist": True,
        "tokenPrefix": "acme",
        "imagePullSecrets": [{"name": "registry"}],
        "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4317"}],
        "networkPolicy": {"extraEgress": [{"ports": [{"port": 4317}]}]},
        "service": {"type": "LoadBalancer", "annotations": {"example.org/a": "b"}},
        "serviceAccount": {"annotations": {"example.org/a": "b"}},
        "podAnnotations": {"prometheus.io/scrape": "true"},
        "podLabels": {"team": "keys"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
    },
}
REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "several replicas on SQLite": ({**TLS, "replicaCount": 2}, "/replicaCount"),
    "no replica": ({**TLS, "replicaCount": 0}, "/replicaCount"),
    "plaintext that nobody asked for": ({}, "/tls/secretName"),
    "PostgreSQL without a URL": ({**POSTGRES, "store": {"engine": "postgresql"}}, "/secretName"),
    "PostgreSQL without a pepper": ({**POSTGRES, "secrets": {}}, "/secrets/pepper/name"),
    "a prefix that tokens begin with": ({**TLS, "tokenPrefix": "sk"}, "/tokenPrefix"),
    "an unknown engine": ({**TLS, "store": {"engine": "mysql"}}, "/store/engine"),
    "an unknown name": ({**TLS, "replicas": 1}, "replicas"),
    "a text for a number": ({**TLS, "workers": "2"}, "/workers"),
    "callers without client certificates": (
        {**TLS, "callers": MUTUAL_TLS["callers"]},
        "/tls/clientCaKey",
    ),
    "client certificates that the probe lacks": (
        {"tls": {"secretName": "tls", "clientCaKey": "ca.crt"}},
        "/tls/probeSecretName",
    ),
}


@cache
def results() -> dict[str, Any]:
    """Return the result of each case."""
    order = {
        "chart": str(CHART),
        "versions": VERSIONS,
        "cases": CASES | {name: values for name, (values, _) in REFUSED.items()},
    }
    done = subprocess.run(
        [TOOL, "-m", "tests.deploy.chart_tool"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert 0 == done.returncode, done.stderr
    rendered: dict[str, Any] = json.loads(done.stdout)
    return rendered


def manifests(case: str) -> dict[str, dict[str, Any]]:
    """Return the manifests of a case by their kind."""
    found = results()[case]
    assert "error" not in found, found
    return {manifest["kind"]: manifest for manifest in found["manifests"]}


def pod_of(case: str) -> dict[str, Any]:
    """Return the pod of a case."""
    kinds = manifests(case)
    workload = kinds.get("StatefulSet") or kinds["Deployment"]
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


pytestmark = [needs_helm, pytest.mark.xdist_group("chart")]  # one rendering for all


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_valid_and_their_pods_have_no_more_rights_than_needed(case: str) -> None:
    """With any values: non-root, a read-only root, no service links, no token of the API."""
    pod = pod_of(case)
    assert {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    } == pod["securityContext"]
    assert (False, False) == (pod["enableServiceLinks"], pod["automountServiceAccountToken"])
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        assert {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        } == container["securityContext"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    modes = [
        source["defaultMode"]
        for volume in volumes.values()
        if (source := volume.get("secret") or volume.get("projected"))
    ]
    assert {0o440} >= set(modes)
    mounted = {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]}
    claims = {"data"} if "StatefulSet" in manifests(case) else set()
    assert mounted <= volumes.keys() | claims


def test_sqlite_has_one_pod_with_a_volume_and_postgres_several_without() -> None:
    """Only several replicas have a budget for disruptions."""
    sqlite, postgres = manifests("sqlite"), manifests("postgres")
    assert 1 == sqlite["StatefulSet"]["spec"]["replicas"]
    (claim,) = sqlite["StatefulSet"]["spec"]["volumeClaimTemplates"]
    assert (["ReadWriteOnce"], "8Gi") == (
        claim["spec"]["accessModes"],
        claim["spec"]["resources"]["requests"]["storage"],
    )
    assert "volumeClaimTemplates" not in manifests("claim")["StatefulSet"]["spec"]
    assert 3 == postgres["Deployment"]["spec"]["replicas"]
    budget = postgres["PodDisruptionBudget"]["spec"]
    assert 1 == budget["maxUnavailable"]
    selector = postgres["Deployment"]["spec"]["selector"]
    assert selector == budget["selector"]
    assert selector["matchLabels"] == postgres["Service"]["spec"]["selector"]
    labels = postgres["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert selector["matchLabels"].items() <= labels.items()
    assert "PodDisruptionBudget" not in sqlite


def test_network_policy_admits_calls_and_sends_only_to_the_database() -> None:
    """SQLite needs no connection to others; PostgreSQL names and its port."""
    sqlite, postgres = (manifests(case)["NetworkPolicy"]["spec"] for case in ("sqlite", "postgres"))
    assert [] == sqlite["egress"]
    ports = [port["port"] for rule in postgres["egress"] for port in rule["ports"]]
    assert [53, 53, 5432] == ports
    assert ["Ingress", "Egress"] == postgres["policyTypes"]
    admitted = [[port["port"] for port in rule["ports"]] for rule in postgres["ingress"]]
    assert [["grpc", "http"], ["metrics"]] == admitted


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_work_are_refused_by_their_name(case: str) -> None:
    """The error of Helm names the value."""
    assert REFUSED[case][1] in results()[case]["error"]


def test_probes_ask_for_health_in_each_way_of_serving() -> None:
    """The kubelet speaks HTTP with or without TLS, gRPC without TLS; else the command asks."""
    probes = {case: pod_of(case)["containers"][0]["readinessProbe"] for case in CASES}
    assert ("HTTPS", "/healthz") == (
        probes["sqlite"]["httpGet"]["scheme"],
        probes["sqlite"]["httpGet"]["path"],
    )
    assert "HTTP" == probes["mesh"]["httpGet"]["scheme"]
    assert {"port": 50051} == probes["mesh without http"]["grpc"]
    assert ["keyauthority", "health"] == probes["first start"]["exec"]["command"][:2]


def test_image_of_the_chart_has_the_version_of_the_server() -> None:
    """The default tag is the chart's appVersion."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert version("keyauthority") == chart["appVersion"]


def test_rendered_commands_serve_with_existing_secrets(tmp_path: Path) -> None:
    """The first start registers the operator key; a later one takes pepper and audit key."""
    issuer, made = Issuer(), tmp_path / "made"
    mounts = mounts_in(tmp_path, issuer)
    assert 0 == shared().run("init", "--data", str(made)).code
    (mounts["keys"] / "operator.key").symlink_to(made / "operator.key")
    with run_pod("first start", mounts) as (server, probe):
        credentials = grpc.ssl_channel_credentials(
            issuer.pem, *[(mounts["probe"] / f"tls.{end}").read_bytes() for end in ("key", "crt")]
        )
        with grpc.secure_channel(server.address, credentials) as channel:
            first = (made / "operator.key").read_text(encoding="ascii").strip()
            caller = Caller(channel, (("authorization", f"Bearer {first}"),))
            assert ["*:*"] == caller.ask(pb.GetCallerRequest()).permissions
        subprocess.run(probe, check=True, stdout=subprocess.DEVNULL)
    (mounts["keys"] / "operator.key").unlink()
    for name in ("pepper", "audit.key"):
        kept = server.data / name
        kept.rename(made / name)
        (mounts["keys"] / name).symlink_to(made / name)
    with run_pod("later start", mounts) as (server, _):
        assert {"pepper", "audit.key"} <= {path.name for path in server.data.iterdir()}


def test_restarted_pod_keeps_a_version_that_its_secret_lacks(tmp_path: Path) -> None:
    """The file on the volume may have the only copy; with it in the secret the pod starts."""
    made, mounts = tmp_path / "made", mounts_in(tmp_path, Issuer())
    assert 0 == shared().run("init", "--data", str(made)).code
    shutil.copytree(made, mounts["data"] / "keyauthority")
    for name in ("pepper", "audit.key"):
        (mounts["keys"] / name).symlink_to(made / name)
    kept = mounts["data"] / "keyauthority" / "pepper"
    assert 0 == shared().run("pepper", "rotate", "--data", str(kept.parent)).code
    rotated = kept.read_text(encoding="ascii")
    with pytest.raises(subprocess.CalledProcessError), run_pod("later start", mounts):
        pass
    assert rotated == kept.read_text(encoding="ascii")
    (made / "pepper").write_text(rotated, encoding="ascii")
    with run_pod("later start", mounts):
        assert rotated == kept.read_text(encoding="ascii")


@pytest.mark.prove
def test_rendered_commands_serve_an_authority_on_postgres(tmp_path: Path, cluster: Cluster) -> None:
    """With the key files of `init`, a URL in a secret, and every other value of the chart."""
    url, made, mounts = tmp_path / "url", tmp_path / "made", mounts_in(tmp_path, Issuer())
    url.write_text(cluster.create(), encoding="ascii")
    url.chmod(0o440)
    (mounts["store"] / "url").symlink_to(url)
    assert 0 == shared().run("init", "--data", str(made), "--store-file", str(url)).code
    for name in ("pepper", "audit.key"):
        (mounts["keys"] / name).symlink_to(made / name)
    with run_pod("all", mounts) as (_, probe):
        subprocess.run(probe, check=True, stdout=subprocess.DEVNULL)


def mounts_in(folder: Path, issuer: Issuer) -> dict[str, Path]:
    """Make the folders that a pod mounts, with an empty volume and certificates."""
    mounts = {name: folder / name for name in ("data", "keys", "store", "tls", "probe")}
    for mount in mounts.values():
        mount.mkdir()
    mounts["data"].chmod(0o777)  # as Kubernetes makes an empty volume
    for name in ("tls", "probe"):
        cert, key = issuer.issue(*LOOPBACK).write(mounts[name], "made")
        cert.rename(mounts[name] / "tls.crt")
        key.rename(mounts[name] / "tls.key")
        (mounts[name] / "ca.crt").write_bytes(issuer.pem)
    return mounts


@contextmanager
def run_pod(case: str, mounts: dict[str, Path]) -> Iterator[tuple[ServerProcess, list[str]]]:
    """Run the commands of a pod, with folders for its mounts; give its server and its probe."""

    def here(text: str) -> str:
        for name, folder in mounts.items():
            text = text.replace(f"/{name}/", f"{folder}/")
        return text

    pod = pod_of(case)
    (init,), (container,) = pod["initContainers"], pod["containers"]
    subprocess.run([*init["command"], *map(here, init["args"])], check=True)
    arguments = dict(one.partition("=")[::2] for one in container["args"][1:])
    for name in ("--listen", "--metrics", "--http"):
        assert arguments[name].startswith("0.0.0.0:")
        arguments[name] = "127.0.0.1:0"
    data, listen = Path(here(arguments.pop("--data"))), arguments.pop("--listen")
    flags = [f"{name}={here(text)}" if text else name for name, text in arguments.items()]
    settings = {one["name"]: one["value"] for one in container["env"]}
    server = shared().start(data, *flags, listen=listen, settings=settings)
    probe = [here(word) for word in container["readinessProbe"]["exec"]["command"]]
    probe[0] = str(Path(sys.executable).with_name(probe[0]))
    probe[2] = f"--address={server.address}"
    try:
        yield server, probe
    finally:
        assert 0 == server.stop().code
