"""Resources of a replica in a cluster, and settings by name from Serve's configuration files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from flex_judge.judges import EngineConfig, JudgeConfig, JudgeSettings
from flex_judge.judges.errors import ClusterError, UsageError
from flex_judge.reward.server.auth import check_api_key, hash_key
from flex_judge.reward.serving.cluster import Cluster
from flex_judge.reward.serving.config import ServiceConfig
from flex_judge.reward.serving.service import build


def config(**settings: Any) -> ServiceConfig:
    return ServiceConfig(JudgeConfig(EngineConfig("scripts:judge", "scripted"), JudgeSettings()), **settings)


def test_replicas_share_gpus_if_there_are_too_few() -> None:
    placed = config(replicas=4).place_on(Cluster(cpus=16, gpus=2, local=True))
    assert placed.gpus_per_replica == 0.5
    assert placed.judge.engine.gpu_memory_utilization == 0.425  # half of the share of a single replica
    assert placed.judge.engine.own_process
    assert config().place_on(Cluster(cpus=16, gpus=8, local=True)).gpus_per_replica == 1


def test_gpus_per_replica_is_the_tensor_parallel_size() -> None:
    placed = config(replicas=2, gpus_per_replica=4).place_on(Cluster(cpus=16, gpus=8, local=False))
    assert (placed.gpus_per_replica, placed.judge.engine.tensor_parallel) == (4, 4)
    with pytest.raises(ClusterError, match="2 replicas need 8 GPUs and the cluster has 4"):
        config(replicas=2, gpus_per_replica=4).place_on(Cluster(cpus=16, gpus=4, local=False))
    with pytest.raises(UsageError, match=r"a whole number, or a fraction of one GPU, not 1\.5"):
        config(gpus_per_replica=1.5)


def test_replicas_of_a_remote_judge_need_no_gpu() -> None:
    judge = JudgeConfig(EngineConfig("http://127.0.0.1:8000/v1#judge"), JudgeSettings())
    for cluster in (Cluster(cpus=8, gpus=2, local=True), Cluster(cpus=8, gpus=0, local=True)):
        placed = ServiceConfig(judge, replicas=4).place_on(cluster)
        assert (placed.cpus_per_replica, placed.gpus_per_replica) == (1.0, 0.0)
        assert placed.judge.engine.own_process is False


def test_replicas_can_ignore_available_gpus() -> None:
    placed = config(replicas=2, gpus_per_replica=0).place_on(Cluster(cpus=8, gpus=8, local=True))
    assert (placed.gpus_per_replica, placed.cpus_per_replica) == (0, 4)
    assert not placed.judge.engine.own_process


def test_replicas_share_the_cpus_of_a_local_cluster() -> None:
    placed = config(replicas=2).place_on(Cluster(cpus=8, gpus=0, local=True))
    assert placed.cpus_per_replica == placed.judge.engine.threads == 4


def test_rejects_more_replicas_than_cpus_unless_cpus_are_fractional() -> None:
    with pytest.raises(ClusterError, match="3 replicas need a CPU each and the cluster has 2"):
        config(replicas=3).place_on(Cluster(cpus=2, gpus=0, local=True))
    assert (
        config(replicas=3, cpus_per_replica=0.5).place_on(Cluster(cpus=2, gpus=0, local=True)).cpus_per_replica == 0.5
    )


def test_autoscaling_needs_resources_for_the_minimum_only() -> None:
    placed = config(autoscale="1:8").place_on(Cluster(cpus=4, gpus=0, local=False))
    assert placed.replica_range == (1, 8)
    with pytest.raises(ClusterError, match="6 replicas need a CPU each"):
        config(autoscale="6:8").place_on(Cluster(cpus=4, gpus=0, local=False))


@pytest.mark.parametrize("text", ["4", "0:2", "3:2", "a:b", ":", "1:2:3", "-1:2"])
def test_rejects_malformed_autoscaling(text: str) -> None:
    with pytest.raises(UsageError, match="autoscale must be MIN:MAX"):
        config(autoscale=text)


def test_builds_settings_from_named_strings() -> None:
    args = {"model": "m", "replicas": "3", "max_batch": 16, "votes": "5", "temperature": 1, "deadline_s": "90"}
    service_config = ServiceConfig.from_args(
        {**args, "media_hosts": "a.example, b.example", "forced_answer": "false", "adapter": "none"}
    )
    assert (service_config.replicas, service_config.judge.engine.model, service_config.judge.engine.max_batch) == (
        3,
        "m",
        16,
    )
    assert (
        service_config.judge.settings.votes,
        service_config.judge.settings.temperature,
        service_config.judge.settings.forced_answer,
    ) == (
        5,
        1.0,
        False,
    )
    assert service_config.judge.engine.adapter is None
    assert service_config.gateway is not None
    assert service_config.gateway.media_hosts == ("a.example", "b.example")
    assert service_config.gateway.deadline_s == service_config.judge.settings.deadline_s == 90.0


def test_key_is_read_from_its_source_and_never_literal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    (tmp_path / "key").write_text("other\n")
    for source, key in (("env:JUDGE_KEY", "secret"), (str(tmp_path / "key"), "other")):
        service_config = ServiceConfig.from_args({"api_key": source})
        assert service_config.gateway is not None
        assert service_config.gateway.api_key == hash_key(key)
        assert key.encode() not in pickle.dumps(service_config)  # what Ray sends through the cluster and keeps
        check_api_key(f"Bearer {key}", service_config.gateway.api_key)
        hashed = ServiceConfig.from_args({"api_key": hash_key(key)})
        assert hashed.gateway == service_config.gateway
    for wrong in ("env:NOT_SET_ANYWHERE", "literal-key"):
        with pytest.raises(UsageError, match="api key"):
            ServiceConfig.from_args({"api_key": wrong})


def test_application_from_a_config_file_accepts_any_cpu_count() -> None:
    assert build({"model": "scripts:judge", "engine": "scripted", "cpus_per_replica": 4, "replicas": 2}) is not None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"modle": "m"}, "unknown setting 'modle'; did you mean 'model'?"),
        ({"replicas": "two"}, "setting 'replicas' must be of type int, not 'two'"),
        ({"replicas": 2.5}, "setting 'replicas' must be of type int, not 2.5"),
        ({"forced_answer": "perhaps"}, "setting 'forced_answer' must be of type bool, not 'perhaps'"),
        ({"gateway": "x"}, "unknown setting 'gateway'"),
        ({"votes": 0}, "votes must be at least 1, not 0"),
    ],
)
def test_error_names_the_invalid_setting(args: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ServiceConfig.from_args(args)
