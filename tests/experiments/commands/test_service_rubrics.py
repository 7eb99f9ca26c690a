"""Rubrics that only a judge service has: commands with --judge-url may name them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from curating import data as make_reference_row
from eval_command import Run
from served import Served, ServedJudge, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flex_judge.alignment.pipeline.judge_service import RemoteJudge
from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges import FlexJudge
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import get_rubric, load_rubric, set_rubric_source
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.serving import cluster

SETTINGS: dict[str, Any] = {"engine": "scripted", "model": "scripts:whole_judge", "max_think_tokens": 400}
RUBRIC = 'criteria = "politeness"\nscale = "1-5"\nresponses = "1-2"\n'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedJudge]:
    """Run a service whose operator allows a rubric file."""
    file = tmp_path_factory.mktemp("rubrics") / "house_style.toml"
    file.write_text(RUBRIC)
    judge = FlexJudge.from_config(make_config(JudgeRun, **SETTINGS, forced_answer=False).judge_config)
    with served(judge, GatewayConfig(rubrics=(str(file),), api_key="secret")) as running:
        yield running


@pytest.fixture(autouse=True)
def flags(service: ServedJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the flags of the service, in a folder with rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVICE_KEY", "secret")
    row = {"id": "1", "prompt": "Who?", "responses": ["says=4", "says=2"], "label": "A"}
    for name, rows in {
        "rows": [row],
        "own": [{**row, "rubric": "house_style"}],
        "prompts": [{"prompt": "Who?"}],
    }.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
    Path("reference.jsonl").write_text(json.dumps(make_reference_row(1)) + "\n")
    return ["--judge-url", service.url, "--judge-key", "env:SERVICE_KEY"]


@pytest.mark.parametrize("arguments", [["rows.jsonl", "--rubric", "house_style"], ["own.jsonl"]])
def test_judge_and_eval_take_a_rubric_of_the_service(
    arguments: list[str], flags: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in Path(arguments[0]).read_text().splitlines()]
    plain = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    Path("plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
    run = Run(capfd, "judge", "plain.jsonl", *arguments[1:], *flags)
    assert run.status == 0, run.err
    assert json.loads(run.out.splitlines()[0])["scores"] == [4.0, 2.0]
    labelled = Run(capfd, "eval", "labelled", *arguments, *flags, "--json")
    assert labelled.status == 0, labelled.err
    assert labelled.json["tasks"]["pair"]["figures"]["agreement"]["value"] == 1.0


def test_best_of_n_takes_a_rubric_of_the_service(
    flags: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "start_ray", lambda *_: pytest.fail("Ray was started"))

    async def complete(request: Request) -> JSONResponse:
        seed = (await request.json()).get("seed", 0)
        choice = {"message": {"content": f"says={1 + seed % 5}"}, "finish_reason": "stop"}
        return JSONResponse({"choices": [choice], "usage": {"completion_tokens": 3}})

    async def list_models(_: Request) -> JSONResponse:
        return JSONResponse({"data": [{"id": "sums"}]})

    routes = [Route("/v1/chat/completions", complete, methods=["POST"]), Route("/v1/models", list_models)]
    endpoint = Served(lambda: Starlette(routes=routes))
    endpoint.start()
    try:
        policy = ["--policy-url", endpoint.url, "--policy", "sums", "--samples", "3", "--out", "run"]
        run = Run(capfd, "best-of-n", "prompts.jsonl", *policy, *flags, "--rubric", "house_style")
        assert run.status == 0, run.err
    finally:
        endpoint.stop()
    row = json.loads(Path("run/best_of_n.jsonl").read_text())
    assert row["scores"][row["best"]] == max(row["scores"])
    assert "house_style" in json.loads(Path("run/run.json").read_text())["settings"]["rubric"]


@pytest.mark.parametrize(
    "command",
    [
        ["judge", "rows.jsonl"],
        ["eval", "labelled", "rows.jsonl"],
        ["best-of-n", "prompts.jsonl", "--policy", "smollm2-135m"],
        ["preferences", "prompts.jsonl", "--policy", "smollm2-135m"],
        ["curate", "reference.jsonl"],
        ["dpo", "rows.jsonl", "--output_dir", "o", "--use_cpu"],
        ["grpo", "prompts.jsonl", "--output_dir", "o", "--use_cpu"],
    ],
)
def test_unknown_rubric_gets_the_list_of_the_service(
    command: list[str], flags: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    if command[0] == "judge":
        Path("rows.jsonl").write_text('{"prompt": "Who?", "responses": ["a"]}\n')
    run = Run(capfd, *command, *flags, "--rubric", "house_stile")
    assert run.status == 2
    assert "rubric 'house_stile' does not exist at http" in run.err
    assert "(did you mean 'house_style'?); the service has" in run.err
    assert "general" in run.err
    assert run.err.count("\n") == 1


def test_curate_needs_the_text_of_the_rubric(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(capfd, "curate", "reference.jsonl", *flags, "--rubric", "house_style")
    assert "only the service has its text, which the training examples need" in run.err


def test_without_a_service_names_are_local(capfd: pytest.CaptureFixture[str], flags: list[str]) -> None:
    Path("rows.jsonl").write_text('{"prompt": "Who?", "responses": ["a"]}\n')
    assert Run(capfd, "judge", "rows.jsonl", *flags, "--rubric", "nothing_like_it").status == 2
    with pytest.raises(UsageError, match=r"rubric 'house_style' does not exist; choose one of"):
        load_rubric("house_style")
    run = Run(capfd, "judge", "rows.jsonl", "--rubric", "house_style", "--model", "scripts:whole_judge")
    assert "does not exist; choose one of" in run.err


def test_workers_know_the_rubrics_of_the_service_and_changed_texts_are_another_rubric(service: ServedJudge) -> None:
    try:
        pickle.loads(pickle.dumps(RemoteJudge(service.url, api_key="env:SERVICE_KEY")))
        rubric = load_rubric("house_style")
        assert (str(rubric.scale), rubric.responses, rubric.name) == ("1-5", (1, 2), "house_style")
        assert "digest" in rubric.criteria
        assert get_rubric("house_style") == rubric
    finally:
        set_rubric_source(None)
    with pytest.raises(UsageError, match="does not exist"):
        get_rubric("house_style")
