"""Checks before a start: a wrong input is one line before any engine or Ray starts, in every command."""

from __future__ import annotations

import json
import socket
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import pytest
from scripts import SETTINGS, fair_judge
from served import Served, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flex_judge.alignment.data.prompts import PromptColumns
from flex_judge.alignment.data.sources import open_source
from flex_judge.experiments.cli import main
from flex_judge.experiments.common.start_checks import check_columns
from flex_judge.judges import FlexJudge
from flex_judge.judges.engines import ENGINES
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.reward.server.gateway import GatewayConfig
from flex_judge.reward.serving import cluster


class Started(BaseException):
    """An engine or Ray was started."""


def _start(*_: object) -> None:
    raise Started


@pytest.fixture(autouse=True)
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every start of an engine or of Ray raise `Started`, in a folder with small inputs."""
    module = types.ModuleType("starting_engine")
    module.load = _start  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "starting_engine", module)
    for name in ("transformers", "vllm", "scripted"):
        monkeypatch.setitem(ENGINES, name, "starting_engine:load")
    monkeypatch.setattr(cluster, "start_ray", _start)
    monkeypatch.setattr(cluster, "_join_cluster", _start)
    monkeypatch.setattr(cluster, "run_cleanup_process", nullcontext)
    monkeypatch.chdir(tmp_path)
    prompts = [{"id": str(i), "prompt": f"What is {i} + 3?", "answer": i + 3} for i in range(3)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    Path("c.jsonl").write_text('{"id": "1", "prompt": "What is 2 + 3?", "responses": ["5", "6"]}\n')
    Path("r.jsonl").write_text('{"question_body": "q", "answer1_body": "a", "answer2_body": "b", "score": [1, 2]}\n')
    Path("llmbar.json").write_text('[{"input": "q", "output_1": "a", "output_2": "b", "label": 1}]')
    for name, config in (("empty", None), ("untyped", "{}"), ("bare", '{"model_type": "llama"}')):
        Path(name).mkdir()
        if config is not None:
            Path(name, "config.json").write_text(config)
    Path("lacking").mkdir()
    Path("lacking/config.json").write_text('{"model_type": "llama"}')
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    Path("lacking/model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    Path("lacking/model-1-of-2.safetensors").write_text("x")
    Path("a_file").write_text("x")


SCRIPTED = ["--engine", "scripted"]
POLICY = ["--policy", "scripts:drawn_policy"]
COMMANDS = {
    "judge": (["judge", "c.jsonl"], "--model", ["--out", "o.jsonl"]),
    "serve": (["serve", "--port", "0"], "--model", []),
    "best-of-n": (["best-of-n", "p.jsonl", *POLICY], "--judge", ["--out", "o"]),
    "preferences": (["preferences", "p.jsonl", *POLICY], "--judge", ["--out", "o"]),
    "demo": (["demo", *POLICY], "--judge", ["--out", "o"]),
    "curate": (["curate", "r.jsonl", "--tokenizer", "smollm2-135m"], "--model", ["--out", "o"]),
    "eval": (["eval", "llmbar", "--data", "llmbar.json"], "--model", ["--out", "o"]),
}
"""Command -> its arguments, the flag of its judge, and its output."""


def build_command(command: str, *flags: str, judge: str = "scripts:fair_judge", engine: str = "scripted") -> list[str]:
    arguments, model_flag, out = COMMANDS[command]
    if engine != "scripted":
        arguments = ["smollm2-135m" if text == POLICY[1] else text for text in arguments]
    out = [] if "--out" in flags else out
    return [*arguments, "--engine", engine, model_flag, judge, *out, *flags]


def run_for_error(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail before anything starts, and return its one-line error."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as e:
        status = e.code  # type: ignore[assignment]
    error = capsys.readouterr().err
    assert status in (1, 2), error
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("command", COMMANDS)
def test_right_inputs_start(command: str) -> None:
    with pytest.raises(Started):
        main(build_command(command))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("no_module:judge", "No module named 'no_module'"),
        ("scripts:no_function", "has no attribute 'no_function'"),
        ("scripts", "expected a script as module:function"),
        ("scripts:POLICIES", "expected a function as module:function, got a dict"),
        ("faulty_script:judge", "division by zero"),
    ],
)
def test_wrong_script(
    command: str, script: str, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("faulty_script.py").write_text("1 / 0\n")
    monkeypatch.setattr("scripts.POLICIES", {}, raising=False)
    assert problem in run_for_error(capsys, build_command(command, judge=script))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("no-such-model", "is no embedded model"),
        ("empty", "has no config.json"),
        ("untyped", "has no model_type"),
        ("bare", "has no weights"),
        ("lacking", "lacks model-2-of-2.safetensors (1 of 2 weight files are missing)"),
    ],
)
def test_wrong_model(command: str, model: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert problem in run_for_error(capsys, build_command(command, judge=model, engine="transformers"))


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])
def test_wrong_adapter_and_contradicting_lengths(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = "--judge-adapter" if command in ("best-of-n", "preferences") else "--adapter"
    for engine, judge in (("scripted", "scripts:fair_judge"), ("transformers", "flex-smollm2-135m")):
        problem = "has no weights; leave" if engine == "scripted" else "has no adapter_config.json"
        assert problem in run_for_error(capsys, build_command(command, adapter, "empty", judge=judge, engine=engine))
    lengths = ("--max-think-tokens", "900", "--max-model-len", "800")
    assert "leave no room for a prompt in max_model_len (800)" in run_for_error(
        capsys, build_command(command, *lengths)
    )


def test_a_mapped_column_may_be_in_few_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "Who?"}] * 300 + [{"prompt": "Who?", "clips": ["a.mp4"]}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source, columns = open_source(str(tmp_path / "p.jsonl")), PromptColumns.from_arguments(["videos=clips"])
    check_columns(source, columns)
    columns.check_columns(source)


@pytest.mark.parametrize("command", ["best-of-n", "preferences"])
@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--column", "prompt=question"], "field 'question': missing or null; the columns are id, prompt, answer"),
        (["--column", "id=key"], "--column id=key: p.jsonl has no such column; the columns are id, prompt, answer"),
        (["--column", "images=pictures"], "--column images=pictures: p.jsonl has no such column"),
        (["--column", "videos=clips"], "--column videos=clips: p.jsonl has no such column; the columns are id, prompt"),
        (["--keep", "source"], "none of the first 3 rows can be used; the first: p.jsonl, line 1, field 'source'"),
        (["--answer", "result"], "field 'result': missing, but required"),
        (["--answer", "prompt"], "field 'prompt': expected a number"),
        (["--policy", "scripts:no_function"], "has no attribute 'no_function'"),
        (["--policy-adapter", "empty"], "the scripted engine has no weights"),
        (["--policy-url", "http://127.0.0.1:9/v1", "--policy-engine", "openai"], "check that the endpoint is running"),
        (["--policy-replicas", "5000"], "this run needs about"),
        (["--replicas", "5000"], "this run needs about"),
    ],
)
def test_wrong_prompts_policy_or_size(
    command: str, flags: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problem in run_for_error(capsys, build_command(command, *flags))


def test_single_invalid_rows_do_not_keep_a_run_from_starting() -> None:
    rows = Path("p.jsonl").read_text()
    Path("p.jsonl").write_text('{"id": "x"}\nnot JSON\n' + rows)
    with pytest.raises(Started):
        main(build_command("best-of-n"))


@pytest.mark.parametrize("command", ["serve", "eval"])
@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--replicas", "5000"], "5000 replicas need a CPU each"),
        (["--address", "127.0.0.1:9"], "no Ray cluster answers"),
    ],
)
def test_too_many_replicas_or_no_cluster(
    command: str, flags: list[str], problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "has_accelerators", lambda: False)
    assert problem in run_for_error(capsys, build_command(command, *flags))


def test_resources_that_this_machine_does_not_have(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "has_accelerators", lambda: False)
    assert "the cluster has 0" in run_for_error(capsys, build_command("serve", "--gpus-per-replica", "1"))
    assert "1 replicas need 5000 CPUs" in run_for_error(capsys, build_command("serve", "--cpus-per-replica", "5000"))


@pytest.mark.parametrize("command", ["judge", "serve", "best-of-n", "curate", "eval", "demo"])
def test_too_little_memory(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "measure_available_memory", lambda: 100 << 20)
    monkeypatch.setattr("flex_judge.experiments.common.start_checks.has_accelerators", lambda: False)
    assert "0.1 GiB are free" in run_for_error(capsys, build_command(command))


@pytest.mark.parametrize("command", ["serve", "best-of-n", "eval", "demo"])
def test_auto_without_a_cluster(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("psutil.process_iter", lambda _: [])
    assert "no Ray cluster runs on this machine" in run_for_error(capsys, build_command(command, "--address", "auto"))


def test_service_on_a_joined_cluster_needs_a_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert "name one" in run_for_error(capsys, build_command("serve", "--address", address))


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "serve"])
def test_output_that_cannot_be_written(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    ending = ".jsonl" if command == "judge" else ""
    for out in (f"a_file/x{ending}", f"/proc/x{ending}"):
        assert "cannot be written" in run_for_error(capsys, build_command(command, "--out", out))


def test_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "Address already in use" in run_for_error(capsys, [*build_command("serve"), "--port", port])


def test_wrong_key_of_a_judge_service_or_an_endpoint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG_KEY", "wrong")
    judge = FlexJudge(ScriptedEngine(fair_judge), SETTINGS)
    with served(judge, GatewayConfig(api_key="right")) as service:
        flags = ["--engine", "auto", "--judge-url", service.url, "--judge-key", "env:WRONG_KEY"]
        error = run_for_error(capsys, ["best-of-n", "p.jsonl", "--policy", "smollm2-135m", *flags])
        assert "401: the key is not accepted; give the right one with --judge-key" in error

    def reject(_: Request) -> JSONResponse:
        return JSONResponse({"error": {"message": "invalid key"}}, 401)

    endpoint = Served(lambda: Starlette(routes=[Route("/v1/models", reject)]))
    endpoint.start()
    try:
        flags = ["--policy-url", endpoint.url, "--policy-key", "env:WRONG_KEY", "--policy-engine", "openai"]
        assert "401: invalid key" in run_for_error(capsys, build_command("best-of-n", *flags))
    finally:
        endpoint.stop()


def test_folder_of_a_start_that_failed_takes_other_settings() -> None:
    for judge in ("scripts:fair_judge", "scripts:whole_judge"):
        with pytest.raises(Started):
            main(build_command("best-of-n", judge=judge))
    assert json.loads(Path("o/run.json").read_text())["settings"]["judge"] == "scripts:whole_judge"


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return the training commands of a policy, in which the preparation of the data raises `Started`."""
    for name in ("load_preference_data", "load_prompt_data"):
        monkeypatch.setattr(f"flex_judge.experiments.commands.train_policy.run.{name}", _start)
    Path("pairs.jsonl").write_text('{"prompt": "What is 2 + 3?", "chosen": "5", "rejected": "6"}\n')
    files = {"dpo": "pairs.jsonl", "grpo": "p.jsonl"}
    return {command: [command, file, "--output_dir", "o", "--use_cpu"] for command, file in files.items()}


@pytest.mark.parametrize("command", ["dpo", "grpo"])
@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--judge", "no-such-model"], "is no embedded model"),
        (["--judge", "lacking"], "lacks model-2-of-2.safetensors"),
        (["--judge", "flex-smollm2-135m", "--judge-adapter", "empty"], "has no adapter_config.json"),
        (["--judge-config", "no.yaml"], "no.yaml"),
        (["--judge-config", "wrong.yaml"], "unknown setting 'votez'; did you mean 'votes'?"),
        (["--judge-config", "model.yaml"], "has no attribute 'no_judge'"),
        (["--judge-url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["--judge-url", "127.0.0.1:9"], "url must begin with http"),
        (["--judge-url", "http://127.0.0.1:9", "--judge-key", "env:NO_KEY"], "NO_KEY"),
        (["--rubric", "generel"], "did you mean 'general'?"),
    ],
)
def test_wrong_judge_of_a_training_is_found_before_its_data_are_prepared(
    trainings: dict[str, list[str]], command: str, flags: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wrong.yaml").write_text("votez: 3\n")
    Path("model.yaml").write_text("model: scripts:no_judge\nengine: scripted\n")
    assert problem in run_for_error(capsys, [*trainings[command], *flags])


@pytest.mark.parametrize("command", ["dpo", "grpo"])
def test_training_with_a_right_judge_starts_to_prepare_its_data(
    trainings: dict[str, list[str]], command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Started):
        main(trainings[command])
    monkeypatch.setenv("WRONG_KEY", "wrong")
    judge = FlexJudge(ScriptedEngine(fair_judge), SETTINGS)
    with served(judge, GatewayConfig(api_key="right")) as service:
        flags = ["--judge-url", service.url, "--judge-key", "env:WRONG_KEY"]
        assert "the key is not accepted" in run_for_error(capsys, [*trainings[command], *flags])
        monkeypatch.setenv("WRONG_KEY", "right")
        with pytest.raises(Started):
            main([*trainings[command], *flags])


def test_judge_that_the_data_name_is_checked_before_they_are_tokenized(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flex_judge.experiments.commands.train_policy.run.prepare_preferences", _start)
    rows = [{"prompt": f"What is {n} + 3?", "chosen": f"{n + 3}", "rejected": "6"} for n in range(20)]
    Path("run/data").mkdir(parents=True)
    Path("run/data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("run/run.json").write_text(json.dumps({"settings": {"judge": "http://127.0.0.1:9", "source": "x"}}))
    command = ["dpo", "run", "--output_dir", "o", "--use_cpu"]
    assert "127.0.0.1:9" in run_for_error(capsys, command)
    with pytest.raises(Started):
        main([*command, "--judge", "flex-smollm2-135m"])
    Path("run/run.json").write_text(json.dumps({"settings": {"judge": "gone", "source": "x"}}))
    Path("judge.yaml").write_text("max_think_tokens: 64\n")
    assert "gone" in run_for_error(capsys, [*command, "--judge-config", "judge.yaml", "--rubric", "general"])
