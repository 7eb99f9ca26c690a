"""Progress of a service that starts: only replicas with a judge are counted, other parts are named."""

from __future__ import annotations

from typing import Any

import pytest
from lazy import lazy

from flex_judge.experiments.common.progress import Phase
from flex_judge.reward.serving.deployment import count_replicas
from flex_judge.reward.serving.service import OTHER_PARTS

schema = lazy("ray.serve.schema")
RUNNING, STARTING, STOPPING = "RUNNING", "STARTING", "STOPPING"


def describe_progress(message: str = "", **states: dict[str, int]) -> str:
    """Describe the progress of an application with the given states of its deployments."""
    deployments = {
        name: schema.DeploymentStatusOverview(
            schema.DeploymentStatus("HEALTHY" if set(counts) == {RUNNING} else "UPDATING"),
            schema.DeploymentStatusTrigger("UNSPECIFIED"),
            {schema.ReplicaState(state): count for state, count in counts.items()},
            message if name == "JudgeReplica" else "",
        )
        for name, counts in states.items()
    }
    application: Any = schema.ApplicationStatusOverview(schema.ApplicationStatus("DEPLOYING"), "", 0.0, deployments)
    phase = Phase("loading")
    phase.report_replicas(*count_replicas(application, OTHER_PARTS))
    return phase.waiting_for


@pytest.mark.parametrize(
    ("replicas", "gateway", "store", "expected"),
    [
        ({}, {}, {}, "waiting for the store of finished work"),
        ({STARTING: 1}, {RUNNING: 1}, {RUNNING: 1}, "0 of 1 replicas ready"),
        ({STARTING: 1}, {STARTING: 1}, {RUNNING: 1}, "0 of 1 replicas ready"),
        ({RUNNING: 1}, {RUNNING: 1}, {RUNNING: 1}, "1 of 1 replicas ready"),
        ({RUNNING: 1}, {STARTING: 1}, {RUNNING: 1}, "1 of 1 replicas ready; waiting for the gateway"),
        ({RUNNING: 2, STARTING: 1, STOPPING: 4}, {RUNNING: 1}, {RUNNING: 1}, "2 of 3 replicas ready"),
    ],
)
def test_only_judge_replicas_are_counted(
    replicas: dict[str, int], gateway: dict[str, int], store: dict[str, int], expected: str
) -> None:
    assert describe_progress(JudgeReplica=replicas, JudgeGateway=gateway, KeptWork=store) == expected


def test_missing_resources_are_the_reason() -> None:
    message = 'Resources required for each replica: {"GPU": 1.0}'
    described = describe_progress(message, JudgeReplica={STARTING: 1}, JudgeGateway={STARTING: 1})
    assert described.startswith("0 of 1 replicas ready; the cluster has too few free resources; Resources required")
