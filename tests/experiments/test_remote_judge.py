"""Commands whose judge model is at an address, against a scripted server: judge, curate, doctor, and their errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from core_only import run_command_in_core
from fake_service import refuse
from model_server import ModelServer, write_checkpoint

from flex_judge.experiments.cli import main
from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
from flex_judge.experiments.commands.curate.config import CurateRun
from flex_judge.experiments.commands.serve.config import ServeRun
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.errors import UsageError
from flex_judge.reward.serving.cluster import Cluster

ADDRESS = "http://127.0.0.1:1/v1#judge"
ONE = ("--prompt", "What is 2 + 3?", "--response", "It is 5.")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ModelServer]:
    with ModelServer(write_checkpoint(tmp_path / "judge"), key="open-sesame-1234567890") as server:
        yield server


@pytest.fixture
def key(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> str:
    assert server.key is not None
    monkeypatch.setenv("MODEL_KEY", server.key)
    return server.key


def test_judge_with_a_server(server: ModelServer, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "What is 2 + 3?", "responses": ["5", "6"]}) + "\n")
    out = tmp_path / "judgments.jsonl"
    flags = ("--model", server.model, "--model-key", "env:MODEL_KEY", "--max-model-len", "4096")
    flags = (*flags, "--max-think-tokens", "256")
    assert main(["judge", str(tmp_path / "rows.jsonl"), "--out", str(out), *flags]) == 0
    judgment = json.loads(out.read_text())
    assert (judgment["status"], judgment["provenance"]["server"]["url"]) == ("ok", server.url)
    requests = len(server.bodies)
    assert main(["judge", str(tmp_path / "rows.jsonl"), "--out", str(out), *flags]) == 0
    assert len(server.bodies) == requests + 3  # the checks at the start; the judgment is not made again
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    output = capsys.readouterr()
    assert key.encode() not in written
    assert key not in output.out + output.err


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--model", ADDRESS], "check that the server is running"),
        (["--model", "http://"], "expected the address of a served model"),
        (["--engine", "remote"], "expected the address of a served model"),
        (["--model", ADDRESS, "--engine", "vllm"], "engine vllm cannot run a model at an address"),
        (["--model", ADDRESS, "--adapter", "lora"], "gets its adapter from its server"),
        (["--model-key", "env:KEY"], "model_key is for a model at an address"),
        (["--model-tokenizer", "smollm2-135m"], "model_tokenizer is for a model at an address"),
    ],
)
def test_bad_settings_give_one_line(flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", *ONE, *flags]) in (1, 2)
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_a_core_install_needs_the_extra_of_remote_judges_only() -> None:
    done = run_command_in_core("judge", *ONE, "--model", ADDRESS)
    expected = "flex-judge judge needs the extra 'remote': pip install 'flex-judge[remote]'"
    assert done.stderr == f"flex-judge: error: {expected}\n"


def test_a_policy_does_not_take_the_engine_of_a_remote_judge() -> None:
    for engine in ("auto", "remote"):
        run = make_config(BestOfNRun, judge=ADDRESS, engine=engine)
        assert (run.policy_config.engine, run.engine_config.is_remote) == ("auto", True)


def test_a_service_of_a_remote_judge_has_one_replica_on_any_number_of_gpus() -> None:
    run = make_config(ServeRun, model=ADDRESS)
    placed = run.build_service_config(Cluster(cpus=8, gpus=4, local=True))
    assert (placed.replicas, placed.gpus_per_replica) == (1, 0.0)


def test_curation_counts_tokens_with_the_tokenizer_of_the_server(server: ModelServer, key: str) -> None:
    settings = {"model": server.model, "model_key": "env:MODEL_KEY"}
    assert make_config(CurateRun, **settings).find_tokenizer_name() == server.root
    assert make_config(CurateRun, **settings, model_tokenizer="a/b").find_tokenizer_name() == "a/b"
    server.root = ""
    with pytest.raises(UsageError, match="the server does not name its model"):
        _ = make_config(CurateRun, **settings).find_tokenizer_name()


def test_doctor_reports_a_judge_that_works(server: ModelServer, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", server.model, "--model-key", "env:MODEL_KEY"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == [
        "ok      " + n for n in ("server", "extra", "tokenizer", "judging")
    ]
    assert "vllm 0.32.0" in lines[0]
    assert lines[4] == "This model can judge: pass it as --model"


def test_doctor_says_what_is_missing(server: ModelServer, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("doctor", "--json", "--model", server.model)
    server.ignored = {"structured_outputs"}
    assert main([*flags, "--model-key", "env:MODEL_KEY"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [check["status"] for check in report["checks"]] == ["ok", "ok", "ok", "missing"]
    assert "it lacks a grammar for the reply" in report["checks"][3]["detail"]
    assert report["ok"] is False
    server.always = refuse(400, "no token ids here")
    assert main([*flags, "--model-key", "env:MODEL_KEY"]) == 1
    assert "it lacks completions with token ids" in json.loads(capsys.readouterr().out)["checks"][2]["detail"]
    assert main([*flags]) == 1
    assert "401" in json.loads(capsys.readouterr().out)["checks"][0]["detail"]
    assert main(["doctor", "--model", "smollm2-135m"]) == 2
    assert "expected the address of a model" in capsys.readouterr().err
