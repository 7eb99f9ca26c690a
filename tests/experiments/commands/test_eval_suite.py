"""`flex-judge eval suite`: several benchmarks, one judge, one table next to the published results."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest
import scripts
from eval_command import JUDGE, PANDALM_REPLIES, Run
from html_page import HtmlPage
from served import served

from flex_judge.experiments.benchmarks import BENCHMARKS
from flex_judge.experiments.benchmarks.suites import SUITES
from flex_judge.experiments.cli import main
from flex_judge.experiments.commands.eval import suite as suite_command
from flex_judge.judges import FlexJudge
from flex_judge.judges.engines import scripted
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.protocol.settings import JudgeSettings

TEXT = ("pandalm", "judgelm", "llmbar", "judgebench", "rewardbench", "rewardbench2")
SUITE = ("eval", "suite", "text", *JUDGE, "--json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder whose subfolder `data` holds three text benchmarks; the hub cannot be reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    data.write_llmbar(tmp_path / "data" / "llmbar")
    data.write_pandalm(tmp_path / "data").rename(tmp_path / "data" / "pandalm.json")
    data.write_judgebench(tmp_path / "judgebench")
    return tmp_path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[EngineConfig]:
    """Record the loads of an engine."""
    configs: list[EngineConfig] = []
    load = scripted.load

    def record_load(config: EngineConfig) -> Any:
        configs.append(config)
        return load(config)

    monkeypatch.setattr(scripted, "load", record_load)
    return configs


def find_row(summary: dict[str, Any], benchmark: str, task: str = "pair") -> dict[str, Any]:
    (row,) = [row for row in summary["rows"] if (row["benchmark"], row["task"]) == (benchmark, task)]
    return dict(row)


def test_runs_what_has_data_and_names_the_rest(
    capfd: pytest.CaptureFixture[str], folder: Path, loads: list[EngineConfig]
) -> None:
    run = Run(capfd, *SUITE, "--data", "data", "--data", f"judgebench={folder / 'judgebench'}")
    assert run.status == 1
    assert [config.model for config in loads] == ["scripts:whole_judge"]
    states = {name: entry["state"] for name, entry in run.json["benchmarks"].items()}
    assert states == dict.fromkeys(TEXT, "no data") | dict.fromkeys(("pandalm", "llmbar", "judgebench"), "done")
    assert "flex-judge: judgelm: not run: data holds neither judgelm/ nor a file judgelm.*" in run.err
    assert "get the data from judgelm_val_5k.jsonl" in run.err
    assert "--data judgelm=PATH" in run.err
    assert "rewardbench: not run: " in run.err
    assert "the Hugging Face data set allenai/reward-bench" in run.err
    row = find_row(run.json, "pandalm")
    single = Run(capfd, "eval", "pandalm", *JUDGE, "--data", "data/pandalm.json", "--json").json
    assert row["value"] == single["agreement"] == 0.6
    figures = single["tasks"]["pair"]["figures"]["agreement"]
    assert (row["low"], row["high"]) == (figures["strict_low"], figures["strict_high"])
    assert (row["items"], row["without_verdict"]) == (5, 1)
    assert {"judge": "Flex-VL-7B", "value": 0.7684, "source": "arXiv 2505.18601"} in row["published"]
    for name in ("judgelm", "rewardbench"):
        missing = find_row(run.json, name)
        assert [missing[key] for key in ("value", "low", "high", "items", "without_verdict")] == [None] * 5
        assert missing["reason"]


def test_page_and_terminal_have_the_same_table(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    run = Run(capfd, *[text for text in SUITE if text != "--json"], "--data", "data", "--out", "out")
    assert run.status == 1
    assert "judgelm: not run: " in run.out
    assert "n/a" in run.out
    assert "report: out/report.html" in run.out
    table = [line for line in run.out.splitlines() if line.startswith(("┃", "│"))]
    assert max(map(len, table)) < 100  # a terminal of 80 columns breaks the intervals
    for text in ("pandalm", "pair: agreement", "0.6507 to", "4 of 5"):
        assert any(text in line for line in table)
    page = HtmlPage.load(Path("out/report.html"))
    page.check_sentences()
    assert page.cards["Benchmarks run"] == "2 of 6"
    assert page.cards["Items"] == "8"
    for text in ("Flex-VL-7B", "0.7684", "0.6000", "n/a", "judgelm: not run"):
        assert text in page.text
    html = Path("out/report.html").read_text()
    assert 'href="pandalm/report.html"' in html
    assert Path("out/pandalm/report.html").is_file()
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["rows"][0]["value"] == 0.6
    Path("out/report.html").unlink()
    assert main(["report", "out"]) == 0
    assert Path("out/report.html").read_text() == html


def test_resumes_without_judging_again(
    capfd: pytest.CaptureFixture[str], folder: Path, loads: list[EngineConfig]
) -> None:
    command = (*SUITE, "--data", "data", "--out", "out")
    first = Run(capfd, *command, "--limit", "2").json
    assert find_row(first, "pandalm")["items"] == 2
    again = Run(capfd, *command, "--limit", "2").json
    assert [config.model for config in loads] == ["scripts:whole_judge"]
    assert again["rows"] == first["rows"]
    assert find_row(Run(capfd, *command, "--seed", "0").json, "pandalm")["items"] == 5
    data.write_judgebench(folder / "data" / "judgebench")
    only = Run(capfd, *command, "--only", "judgebench")
    assert only.status == 0
    assert find_row(only.json, "judgebench")["items"] == 3
    assert find_row(only.json, "pandalm")["items"] == 5
    assert only.json["benchmarks"]["judgelm"]["state"] == "not selected"
    assert len(loads) == 3
    other = Run(capfd, *command, "--temperature", "0.1")
    assert other.status == 2
    assert "temperature" in other.err


def test_an_error_costs_one_benchmark_and_a_lost_engine_is_loaded_again(
    capfd: pytest.CaptureFixture[str], folder: Path, loads: list[EngineConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(Path("data/pandalm.json").read_text())
    Path("data/pandalm.json").write_text(json.dumps([{**row, "annotator2": "left"} for row in rows]))
    data.write_judgebench(folder / "data" / "judgebench")
    judge = scripts.whole_judge

    def die_once(*request: Any) -> Any:
        if len(loads) < 2:
            raise EngineLostError("the engine has ended")
        return judge(*request)

    monkeypatch.setattr(scripts, "whole_judge", die_once)
    run = Run(capfd, *SUITE, "--data", "data", "--out", "out")
    assert run.status == 1
    states = {name: run.json["benchmarks"][name]["state"] for name in ("pandalm", "llmbar", "judgebench")}
    assert states == {"pandalm": "no data", "llmbar": "failed", "judgebench": "done"}
    assert "pandalm: not run: data/pandalm.json, row 1, field 'annotator2'" in run.err
    assert "llmbar: failed: the engine has ended; the same command resumes it" in run.err
    assert len(loads) == 2
    assert find_row(run.json, "llmbar")["value"] is None
    assert find_row(Run(capfd, *SUITE, "--data", "data", "--out", "out").json, "llmbar")["value"] is not None


def test_stopped_suite_has_a_page_and_resumes(
    capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, prompts = scripts.whole_judge, list[str]()

    def stop_in_llmbar(prompt: str, sampling: Any) -> Any:
        prompts.append(prompt)
        if "Natural task" in prompt and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGINT)
        return judge(prompt, sampling)

    monkeypatch.setattr(scripts, "whole_judge", stop_in_llmbar)
    command = (*SUITE, "--data", "data", "--out", "out", "--only", "pandalm", "--only", "llmbar")
    stopped = Run(capfd, *command)
    assert stopped.status == 130
    page = HtmlPage.load(Path("out/report.html"))
    page.check_sentences()
    assert "This run is not finished" in page.text
    assert page.cards["Benchmarks run"] == "1 of 2"
    assert "flex-judge eval suite text" in page.text
    num_prompts = len(prompts)
    again = Run(capfd, *command)
    assert again.status == 0
    assert find_row(again.json, "llmbar")["items"] == 3
    # Nothing of pandalm is judged again.
    assert all("Natural task" in prompt or "Manual task" in prompt for prompt in prompts[num_prompts:])
    assert "not finished" not in HtmlPage.load(Path("out/report.html")).text


def test_a_stop_loses_no_earlier_result(
    capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*SUITE, "--data", "data", "--out", "out", "--only", "pandalm", "--only", "llmbar")
    earlier = Run(capfd, *command, "--limit", "1").json
    judge = scripts.whole_judge

    def stop(prompt: str, sampling: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return judge(prompt, sampling)

    monkeypatch.setattr(scripts, "whole_judge", stop)
    assert Run(capfd, *command, "--temperature", "0.1").status == 2
    assert Run(capfd, *command).status == 130
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["rows"] == earlier["rows"]
    assert [summary["benchmarks"][name]["state"] for name in ("pandalm", "llmbar")] == ["done", "done"]
    page = HtmlPage.load(Path("out/report.html"))
    page.check_sentences()
    assert "This run is not finished" in page.text
    assert "pandalm: note: the result is of an earlier start, with --limit 1" in page.text


@pytest.mark.parametrize("change", ["other fields", "no entries", "no object"])
def test_summary_of_another_version_is_no_obstacle(
    capfd: pytest.CaptureFixture[str], folder: Path, change: str
) -> None:
    command = (*SUITE, "--data", "data", "--out", "out")
    earlier = Run(capfd, *command, "--only", "pandalm").json
    other: Any = {**earlier, "benchmarks": {"pandalm": {"state": "done", "speed": 3}}}
    if change != "other fields":
        other = {"benchmarks": ["pandalm"]} if change == "no entries" else []
    Path("out/summary.json").write_text(json.dumps(other))
    run = Run(capfd, *command, "--only", "llmbar")
    assert run.status == 0
    assert find_row(run.json, "llmbar")["value"] is not None
    if change == "other fields":
        assert find_row(run.json, "pandalm") == find_row(earlier, "pandalm")


def test_missing_data_lose_no_earlier_result_and_are_reported(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    command = (*SUITE, "--data", "data", "--out", "out", "--only", "pandalm", "--only", "llmbar")
    earlier = Run(capfd, *command).json
    Path("data/pandalm.json").unlink()
    run = Run(capfd, *command)
    assert run.status == 1
    assert run.json["rows"] == earlier["rows"]
    assert "pandalm: not run: data holds neither pandalm/ nor" in run.err
    page = HtmlPage.load(Path("out/report.html"))
    page.check_sentences()
    assert "pandalm: not run: data holds neither pandalm/ nor" in page.text
    assert "its rows are of an earlier start" in page.text


def test_other_data_end_the_command_and_change_nothing(
    capfd: pytest.CaptureFixture[str], folder: Path, loads: list[EngineConfig]
) -> None:
    command = (*SUITE, "--data", "data", "--out", "out")
    Run(capfd, *command, "--only", "pandalm")
    summary = Path("out/summary.json").read_text()
    rows = json.loads(Path("data/pandalm.json").read_text())
    Path("data/pandalm.json").write_text(json.dumps(rows[1:]))
    run = Run(capfd, *command)
    assert run.status == 2
    assert "out/pandalm holds a run with data_digest = " in run.err
    assert "resumes it" not in run.err
    assert Path("out/summary.json").read_text() == summary
    assert not Path("out/llmbar").exists()
    assert len(loads) == 1


def test_a_replay_keeps_its_limit(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    data.write_table(folder / "replies" / "pandalm.jsonl", list(PANDALM_REPLIES))
    command = ("eval", "suite", "text", "--data", "data", "--json", "--replay", "replies", "--out", "out")
    assert Run(capfd, *command, "--only", "pandalm", "--limit", "2").status == 0
    summary = Path("out/summary.json").read_text()
    run = Run(capfd, *command, "--only", "pandalm")
    assert run.status == 2
    assert "out holds a run with limit = 2, not None" in run.err
    assert Path("out/summary.json").read_text() == summary


def test_settings_that_decide_no_result_may_change(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    command = (*SUITE, "--data", "data", "--out", "out", "--only", "llmbar")
    first = Run(capfd, *command).json
    assert Run(capfd, *command, "--max-batch", "4").json["rows"] == first["rows"]
    settings = json.loads(Path("out/run.json").read_text())["settings"]
    assert settings["judge"] == "scripts:whole_judge"
    assert "model" not in settings


def test_suite_without_a_result_takes_other_settings(
    capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> Any:
        raise EngineLostError("the engine has ended")

    command = (*SUITE, "--data", "data", "--out", "out", "--only", "llmbar")
    with monkeypatch.context() as patch:
        patch.setattr(scripts, "whole_judge", die)
        assert Run(capfd, *command).json["benchmarks"]["llmbar"]["state"] == "failed"
    assert Path("out/report.html").is_file()
    assert Run(capfd, *command, "--temperature", "0.1").status == 0
    other = Run(capfd, *command)
    assert other.status == 2
    assert "temperature" in other.err


def test_folder_of_one_benchmark_is_not_overwritten(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    Run(capfd, "eval", "llmbar", *JUDGE, "--data", "data/llmbar", "--out", "out")
    summary = Path("out/summary.json").read_text()
    assert Run(capfd, *SUITE, "--data", "data", "--out", "out").status == 2
    assert Path("out/summary.json").read_text() == summary


def test_unexpected_errors_leave_a_traceback(
    capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.write_judgebench(folder / "data" / "judgebench")
    load = scripted.load
    failures = ["broken weights"]

    def fail_once(config: Any) -> Any:
        if failures:
            raise ValueError(failures.pop())
        return load(config)

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("no row")

    monkeypatch.setattr(scripted, "load", fail_once)
    monkeypatch.setattr(type(BENCHMARKS["pandalm"]), "parse_items", fail)
    selected = [text for name in ("pandalm", "llmbar", "judgebench") for text in ("--only", name)]
    run = Run(capfd, *SUITE, "--data", "data", "--out", "out", *selected)
    assert "pandalm: not run: ZeroDivisionError: no row; the traceback is in out/engines.log\n" in run.err
    hint = "the same command resumes it; the traceback is in out/engines.log"
    assert f"llmbar: failed: ValueError: broken weights; {hint}\n" in run.err
    assert find_row(run.json, "judgebench")["value"] is not None
    log = Path("out/engines.log").read_text()
    assert log.count("Traceback (most recent call last)") == 2
    assert "in fail_once" in log
    none = Run(capfd, *SUITE, "--data", "data", "--only", "pandalm")
    assert none.status == 2
    assert "in fail\n" in none.err
    assert not Path("runs").exists()


def test_a_full_disk_is_no_missing_data(
    capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_disk(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "cache")

    monkeypatch.setattr(type(BENCHMARKS["pandalm"]), "parse_items", fill_disk)
    run = Run(capfd, *SUITE, "--data", "data", "--out", "out")
    assert "cache: cannot be written (No space left on device); free disk space" in run.err
    assert "pandalm: not run" not in run.err
    assert not Path("out").exists()


def test_only_selected_benchmarks_decide_the_exit_status(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    data.write_table(folder / "replies" / "pandalm.jsonl", list(PANDALM_REPLIES)[:3])
    replies = [{"id": f"p{k}", "text": PANDALM_REPLIES[0]["text"]} for k in (1, 2, 3)]
    data.write_table(folder / "replies" / "judgebench.jsonl", replies)
    data.write_judgebench(folder / "data" / "judgebench")
    command = ("eval", "suite", "text", "--data", "data", "--json", "--replay", "replies", "--out", "out")
    first = Run(capfd, *command, "--only", "pandalm")
    assert (first.status, first.json["benchmarks"]["pandalm"]["not_judged"]) == (1, 2)
    second = Run(capfd, *command, "--only", "judgebench")
    assert (second.status, second.json["benchmarks"]["pandalm"]["not_judged"]) == (0, 2)
    assert second.json["selected"] == ["judgebench"]
    assert Run(capfd, *command, "--only", "pandalm", "--max-failures", "2").status == 0


def test_broken_rows_of_data_sets_are_no_missing_data(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    row = {**json.loads(Path("data/pandalm.json").read_text())[0], "annotator2": "left"}
    data.write_table(folder / "files" / "test.jsonl", [row])
    datasets.DatasetDict({"test": datasets.Dataset.from_list([row])}).save_to_disk(folder / "saved")
    for path in (f"hub:{folder / 'files'}@test", f"{folder / 'saved'}@test", "files"):
        run = Run(capfd, *SUITE, "--only", "pandalm", "--data", f"pandalm={path}")
        assert "field 'annotator2'" in run.err, path
        assert "get the data from" not in run.err, path
    nowhere = Run(capfd, *SUITE, "--only", "pandalm", "--data", "pandalm=hub:nobody/nothing")
    assert "get the data from data/testset-v1.json of the GitHub repository WeOpenML/PandaLM" in nowhere.err


def test_a_benchmark_with_other_engine_settings_has_an_engine_of_its_own(
    capfd: pytest.CaptureFixture[str], folder: Path, loads: list[EngineConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    data.write_judgebench(folder / "data" / "judgebench")
    spec = BENCHMARKS["llmbar"].spec
    protocol = {**spec.protocol, "max_model_len": 4096}
    monkeypatch.setattr(type(BENCHMARKS["llmbar"]), "spec", dataclasses.replace(spec, protocol=protocol))
    selected = [text for name in ("pandalm", "llmbar", "judgebench") for text in ("--only", name)]
    assert Run(capfd, *SUITE, "--data", "data", *selected).status == 0
    assert [config.max_model_len for config in loads] == [8192, 4096, 8192]


def test_suite_with_a_judge_service(capfd: pytest.CaptureFixture[str], folder: Path, loads: list[EngineConfig]) -> None:
    judge = FlexJudge(ScriptedEngine(scripts.whole_judge), JudgeSettings(max_think_tokens=400))
    with served(judge) as service:
        command = ("eval", "suite", "text", "--data", "data", "--only", "llmbar", "--json", "--judge-url", service.url)
        run = Run(capfd, *command)
        assert (run.status, loads) == (0, [])
        assert find_row(run.json, "llmbar")["value"] is not None
        wrong = Run(capfd, *command, "--temperature", "0.1")
        assert "--temperature is configured at the service" in wrong.err
    gone = Run(capfd, *command, "--out", "other")
    assert gone.status in (1, 2)
    assert service.url in gone.err
    assert not Path("other").exists()


def test_stored_replies_of_several_benchmarks(
    capfd: pytest.CaptureFixture[str], folder: Path, loads: list[EngineConfig]
) -> None:
    data.write_table(folder / "replies" / "pandalm.jsonl", list(PANDALM_REPLIES))
    command = ("eval", "suite", "text", "--data", "data", "--json")
    run = Run(capfd, *command, "--replay", "replies")
    assert (run.status, loads) == (1, [])
    assert find_row(run.json, "pandalm")["value"] is not None
    # Its data are there, and a folder of replies would not do.
    assert "llmbar: not run: replies holds no file llmbar.*\n" in run.err
    assert not Path("runs").exists()
    named = Run(capfd, *command, "--replay", "pandalm=replies/pandalm.jsonl", "--only", "pandalm", "--out", "out")
    assert named.status == 0
    assert named.json["rows"][0] == run.json["rows"][0]
    assert "Replies are from" in HtmlPage.load(Path("out/report.html")).text
    wrong = Run(capfd, *command, "--replay", "replies", "--temperature", "0.3")
    assert "--replay runs no model; leave out --temperature" in wrong.err


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--data", "nowhere"), "--data nowhere: no such folder"),
        (("--data", "pandlm=data"), "there is no benchmark 'pandlm'; did you mean 'pandalm'?"),
        (("--data", "data", "--only", "nisqa"), "--only nisqa: not in the suite text"),
        (("--data", "data", "--model", "scripts:no_judge"), "has no attribute 'no_judge'"),
        (("--data", "data", "--replay-format", "judgelrm"), "--replay-format needs --replay"),
        (("--only", "judgelm"), "no benchmark of the suite text can be run"),
    ],
)
def test_wrong_settings_start_nothing(
    capfd: pytest.CaptureFixture[str], folder: Path, loads: list[EngineConfig], flags: tuple[str, ...], problem: str
) -> None:
    run = Run(capfd, *SUITE, *flags)
    assert (run.status, loads) == (2, [])
    assert problem in run.err
    assert not Path("runs").exists()


def test_similar_name_in_the_folder_is_suggested(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    Path("data/llmbar").rename("data/LLMBar_data")
    Path("data/judgelm_5k").mkdir()
    run = Run(capfd, *SUITE, "--data", "data")
    assert "judgelm: not run: data holds neither judgelm/ nor a file judgelm.* (is it judgelm_5k?)" in run.err
    Path("data/judgelm_5k").rename("data/judgelm_val_5k.jsonl")
    assert "(is it judgelm_val_5k.jsonl?)" in Run(capfd, *SUITE, "--data", "data").err


def test_suites_hold_existing_benchmarks_and_the_paper_has_its_own() -> None:
    for suite in SUITES.values():
        assert set(suite.benchmarks) <= set(BENCHMARKS)
    of_paper = {
        name
        for name, benchmark in BENCHMARKS.items()
        if any(result.judge.startswith("Flex-") for result in benchmark.spec.published)
    }
    assert set(SUITES["paper"].benchmarks) == of_paper
    assert all(benchmark.spec.origin for benchmark in BENCHMARKS.values())


def test_help_says_the_layout_and_where_data_come_from(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = " ".join(Run(capfd, "eval", "suite", "--help").out.split())
    assert "FOLDER/NAME/ is the folder that eval NAME --data takes" in suite
    assert "audio: nisqa, bvcc, somos, voxsim" in suite
    assert "WeOpenML/PandaLM" in " ".join(Run(capfd, "eval", "pandalm", "--help").out.split())
    monkeypatch.setattr(suite_command, "describe_suites", lambda: "Items of 50% of the data")
    assert "50% of the data" in " ".join(Run(capfd, "eval", "suite", "--help").out.split())
