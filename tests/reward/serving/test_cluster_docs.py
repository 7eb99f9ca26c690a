"""Cluster configurations in docs/ can be deployed, apart from values that the reader must fill in."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import yaml
from doc_hooks import load_hook
from doc_pages import parse_page
from repository import DOCS

from flex_judge.reward.client import KEY_VARIABLE
from flex_judge.reward.server.auth import hash_key
from flex_judge.reward.serving.config import ServiceConfig


def load_manifest() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DOCS / "operations" / "kuberay.yaml").read_text())
    return content


def load_kubernetes_config() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(load_manifest()["spec"]["serveConfigV2"])
    return content


def load_docs_config() -> dict[str, Any]:
    page = DOCS / "operations" / "cluster.md"
    (block,) = (b.code for b in parse_page(page.read_text(), page.name) if b.language == "yaml")
    content: dict[str, Any] = yaml.safe_load(block)
    return content


def list_pods() -> list[dict[str, Any]]:
    """List the pod templates: the head, then the workers."""
    cluster = load_manifest()["spec"]["rayClusterConfig"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the key, as in the pods and on the machines."""
    monkeypatch.setenv(KEY_VARIABLE, "a-key")
    return "a-key"


@pytest.mark.parametrize("config", [load_kubernetes_config, load_docs_config])
def test_serve_accepts_the_configuration_and_builds_the_application(config: Any, key: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    (application,) = ServeDeploySchema.model_validate(config()).applications
    assert application.route_prefix == "/"
    module, _, function = application.import_path.partition(":")
    args = application.args
    assert getattr(importlib.import_module(module), function)(args) is not None
    settings = ServiceConfig.from_args(args)
    assert settings.name == application.name
    assert args["api_key"] == f"env:{KEY_VARIABLE}"  # never the key itself
    assert settings.gateway is not None
    assert settings.gateway.api_key == hash_key(key)


def test_manifest_workers_fit_its_replicas() -> None:
    (application,) = load_kubernetes_config()["applications"]
    settings = ServiceConfig.from_args(application["args"])
    (group,) = load_manifest()["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    limits = worker["resources"]["limits"]
    gpus, cpus = settings.gpus_per_replica or 0.0, settings.cpus_per_replica or 1.0
    assert gpus >= 1
    per_pod = min(int(limits["nvidia.com/gpu"]) // gpus, int(limits["cpu"]) // cpus)
    assert per_pod * group["replicas"] >= settings.replica_range[1]
    assert worker["resources"]["requests"] == limits


def test_manifest_contains_no_registry_and_no_key() -> None:
    for pod in list_pods():
        for container in pod["spec"]["containers"]:
            assert "/" not in container["image"]
            (key,) = [e for e in container["env"] if e["name"] == KEY_VARIABLE]
            assert set(key) == {"name", "valueFrom"}
            assert set(key["valueFrom"]) == {"secretKeyRef"}


def test_probes_and_prometheus_use_the_ports_of_the_service() -> None:
    import ray

    serve = load_kubernetes_config()
    for pod in list_pods():
        (container,) = pod["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["serve"] == serve["http_options"]["port"]
        assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    probe = list_pods()[1]["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    assert probe == {"path": "/healthz", "port": "serve"}
    spec = load_manifest()["spec"]
    assert spec["rayClusterConfig"]["rayVersion"] == ray.__version__
    assert spec["rayClusterDeletionDelaySeconds"] > serve["applications"][0]["args"]["deadline_s"]


def test_documented_metrics_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "operations" / "cluster.md").read_text()
    table = text.partition("| metric (`flex_judge_...`) | meaning |")[2].partition("\n\n")[0]
    names = re.findall(r"`([a-z_]+)[`{]", "".join(row.split("|")[1] for row in table.strip().splitlines()[1:]))
    page = load_hook("metrics_page", monkeypatch).generate()
    assert len(names) > 8
    for name in names:
        assert f"`flex_judge_{name}`" in page
