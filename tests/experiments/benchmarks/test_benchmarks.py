"""Every benchmark on a small data set in its original layout, with the real evaluator and a scripted judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest
from eval_command import parse_items

from flex_judge.experiments.benchmarks import BENCHMARKS
from flex_judge.experiments.commands.eval.config import EvalRun
from flex_judge.experiments.commands.eval.run import main
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.protocol.parsing import parse_answer
from flex_judge.judges.protocol.prompts import build_judge_turns
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics import load_rubric

JUDGE: dict[str, Any] = {
    "engine": "scripted",
    "model": "scripts:whole_judge",
    "max_think_tokens": 400,
    "forced_answer": False,
}


def run_benchmark(name: str, path: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    """Run a benchmark with its own protocol."""
    benchmark = BENCHMARKS[name]
    protocol = {**benchmark.spec.protocol, **JUDGE, "out": str(folder / "run"), **settings}
    return main(benchmark, make_config(EvalRun, data=(str(path),), **protocol))


def get_metric(summary: dict[str, Any], name: str, task: str | None = None) -> Any:
    tasks = summary["tasks"]
    return (tasks[task] if task else next(iter(tasks.values())))["figures"][name]


def test_pandalm_uses_the_majority_of_three_annotators(tmp_path: Path) -> None:
    summary = run_benchmark("pandalm", data.write_pandalm(tmp_path / "data"), tmp_path)
    agreement = get_metric(summary, "agreement")
    assert agreement["value"] == pytest.approx(3 / 4)
    assert (agreement["strict"], agreement["count"], agreement["asked"]) == (3 / 5, 4, 5)
    assert get_metric(summary, "without_ties")["value"] == 1.0
    assert summary["agreement"] == 3 / 5
    assert summary["unscored"] == {"unparseable": 1}
    assert summary["notes"] == ["5 items; the published version has 999"]
    groups = summary["tasks"]["pair"]["tables"]["annotators"]
    assert {name: group["asked"] for name, group in groups.items()} == {"all differ": 1, "two agree or more": 4}


def test_pandalm_reads_nan_as_an_empty_text(tmp_path: Path) -> None:
    empty_row = {"instruction": "Be silent.", "input": float("nan"), "response1": float("nan"), "response2": "says=3"}
    path = data.write_table(tmp_path / "testset-v1.json", [{"idx": 0, **empty_row, "label": 1}])
    assert "NaN" in path.read_text()
    (item,) = parse_items("pandalm", path)
    assert item.row.load_comparison().responses == ("", "says=3")
    assert item.row.load_comparison().prompt[0].content == "Be silent."


def test_llmbar_counts_both_orders_and_averages_subsets(tmp_path: Path) -> None:
    summary = run_benchmark("llmbar", data.write_llmbar(tmp_path / "data"), tmp_path)
    assert get_metric(summary, "agreement")["value"] == pytest.approx(2 / 3)
    assert get_metric(summary, "macro")["value"] == 0.5
    assert get_metric(summary, "consistency")["value"] == 1.0
    assert summary["votes"] == 6
    assert set(summary["tasks"]["pair"]["tables"]["subset"]) == {"Natural", "Manual"}


def test_judgebench_counts_the_margin_over_both_orders(tmp_path: Path) -> None:
    summary = run_benchmark("judgebench", data.write_judgebench(tmp_path / "data"), tmp_path)
    assert summary["agreement"] == pytest.approx(2 / 3)
    assert get_metric(summary, "macro")["value"] == pytest.approx(2 / 3)
    categories = summary["tasks"]["pair"]["tables"]["category"]
    assert {name: group["value"] for name, group in categories.items()} == {
        "coding": 1.0,
        "knowledge": 1.0,
        "math": 0.0,
    }


def test_rewardbench_weights_subsets_and_counts_a_tie_as_half(tmp_path: Path) -> None:
    summary = run_benchmark("rewardbench", data.write_rewardbench(tmp_path / "data"), tmp_path)
    assert get_metric(summary, "accuracy")["value"] == 0.5
    sections = {name: group["value"] for name, group in summary["tasks"]["pair"]["tables"]["section"].items()}
    weight = 984 / 447
    assert sections == pytest.approx({"Chat": 1.0, "Chat Hard": 0.5, "Safety": 0.0, "Reasoning": weight / (weight + 1)})
    assert summary["macro"] == pytest.approx(sum(sections.values()) / 4)
    assert summary["settings"]["order"] == "random"


def test_mllm_judge_has_three_tasks_with_different_metrics(tmp_path: Path) -> None:
    summary = run_benchmark("mllm-judge", data.write_mllm_judge(tmp_path / "data"), tmp_path)
    assert summary["judgments"] == 3 * 7
    pair = summary["tasks"]["pair"]["figures"]
    assert pair["agreement"]["value"] == pytest.approx(2 / 3)
    assert pair["macro"]["value"] == 0.75
    assert pair["macro_without_ties"]["value"] == 1.0
    score = summary["tasks"]["score"]["figures"]
    assert score["pearson"]["value"] == pytest.approx(1.0)
    # Scores 9, 2, 5 rank as 0 2 1; the label is 0 1 2: distance 2/3.
    assert summary["batch.distance"] == pytest.approx(2 / 3)


def test_mj_bench_counts_each_order_of_each_task(tmp_path: Path) -> None:
    summary = run_benchmark("mj-bench", data.write_mj_bench(tmp_path / "data"), tmp_path)
    assert set(summary["tasks"]) == {"alignment", "safety", "artifact"}
    assert summary["votes"] == 8
    assert summary["settings"]["order"] == "both"


def test_judgelm_parses_labels_from_the_text_of_gpt_4(tmp_path: Path) -> None:
    summary = run_benchmark("judgelm", data.write_judgelm(tmp_path / "data"), tmp_path)
    assert summary["agreement"] == pytest.approx(2 / 3)
    assert summary["left_out"] == {"GPT-4 gave no scores": 1}
    assert {"precision", "recall", "f1"} <= summary["tasks"]["pair"]["figures"].keys()


def test_judgelm_prefers_the_text_of_gpt_4_to_plain_scores(tmp_path: Path) -> None:
    folder = data.write_judgelm(tmp_path / "data")
    files = [folder / "judgelm_val_5k.jsonl", folder / "judgelm_val_5k_gpt4.jsonl"]
    for order in (files, files[::-1]):
        items = parse_items("judgelm", *order)
        assert [item.label for item in items] == [0, "tie", 0, None]


def test_vl_rewardbench_uses_random_orders_and_groups_by_source(tmp_path: Path) -> None:
    summary = run_benchmark("vl-rewardbench", data.write_vl_rewardbench(tmp_path / "data"), tmp_path)
    assert summary["judgments"] == 15
    groups = {name: group["value"] for name, group in summary["tasks"]["pair"]["tables"]["group"].items()}
    assert groups == {"general": 1.0, "hallucination": 0.0, "reasoning": 1.0}
    assert summary["accuracy"] == get_metric(summary, "macro")["value"] == pytest.approx(2 / 3)
    rows = [json.loads(line) for line in (tmp_path / "run" / "judgments.jsonl").read_text().splitlines()]
    assert len({tuple(row["votes"][0]["order"]) for row in rows}) == 2


def test_genai_bench_counts_options_in_three_tasks(tmp_path: Path) -> None:
    summary = run_benchmark("genai-bench", data.write_genai_bench(tmp_path / "data"), tmp_path)
    assert set(summary["tasks"]) == {"image", "edit", "video"}
    assert summary["judgments"] == 21
    shares = [get_metric(summary, "accuracy", task)["value"] for task in ("image", "edit", "video")]
    assert summary["overall"] == pytest.approx(sum(shares) / 3)
    assert summary["settings"]["image_max_pixels"] == 448 * 448
    assert "majority" in summary["tasks"]["edit"]["figures"]


def test_multimodal_rewardbench_averages_areas(tmp_path: Path) -> None:
    summary = run_benchmark("multimodal-rewardbench", data.write_multimodal_rewardbench(tmp_path / "data"), tmp_path)
    assert get_metric(summary, "accuracy")["value"] == pytest.approx(2 / 3)
    assert get_metric(summary, "macro")["value"] == 0.75


def test_judge_anything_joins_questions_answers_and_judgments(tmp_path: Path) -> None:
    summary = run_benchmark("judge-anything", data.write_judge_anything(tmp_path / "data"), tmp_path)
    assert {name: task["items"] for name, task in summary["tasks"].items()} == {"score": 2, "pair": 2}
    assert summary["tasks"]["pair"]["tables"]["modalities"]["Image2Text"]["value"] == 1.0
    rows = [json.loads(line) for line in (tmp_path / "run" / "items.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [2.0, 4.0, 0, "tie"]
    assert [row["id"] for row in rows][2:] == ["q1/gpt/gpt-mini", "q2/gpt-mini/gpt"]


def test_nisqa_judges_clips_and_correlates(tmp_path: Path) -> None:
    summary = run_benchmark("nisqa", data.write_nisqa(tmp_path / "data"), tmp_path)
    assert (summary["items"], summary["scored"]) == (3, 3)
    assert set(summary["tasks"]["mos"]["figures"]) >= {"lcc", "srcc", "mse", "system_lcc"}
    assert summary["tasks"]["mos"]["tables"].keys() == {"set"}


def test_bvcc_leaves_out_missing_clips(tmp_path: Path) -> None:
    summary = run_benchmark("bvcc", data.write_bvcc(tmp_path / "data"), tmp_path)
    assert (summary["items"], summary["scored"]) == (4, 3)
    assert summary["left_out"] == {"the audio file is missing": 1}
    assert get_metric(summary, "lcc")["count"] == 3


def test_somos_takes_the_system_from_the_name_of_the_clip(tmp_path: Path) -> None:
    summary = run_benchmark("somos", data.write_somos(tmp_path / "data"), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "run" / "items.jsonl").read_text().splitlines()]
    assert [row["system"] for row in rows] == ["078", "078", "001"]
    assert [row["label"] for row in rows] == [3.1, 3.4, 2.2]
    assert summary["scored"] == 3


def test_voxsim_judges_both_clips_and_rescales_scores(tmp_path: Path) -> None:
    replies = data.write_table(
        tmp_path / "replies.jsonl",
        [{"id": k, "text": f"<think>x</think><answer>{s}</answer>"} for k, s in ((1, 1.8), (2, 5.0), (3, 1.0))],
    )
    summary = run_benchmark("voxsim", data.write_voxsim(tmp_path / "data"), tmp_path)
    assert summary["scored"] == 3
    replayed = main(BENCHMARKS["voxsim"], make_config(EvalRun, data=(str(tmp_path / "data"),), replay=str(replies)))
    # 1.8, 5 and 1 on a scale of 1-5 are 2, 6 and 1 on 1-6; the labels are 2, 5.5 and 1.
    assert get_metric(replayed, "mse")["value"] == pytest.approx(0.25 / 3)


WRITERS = {name: getattr(data, f"write_{name.replace('-', '_')}") for name in BENCHMARKS}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_parser_accepts_the_answer_format_of_the_prompt(name: str, tmp_path: Path) -> None:
    spec = BENCHMARKS[name].spec
    path = WRITERS[name](tmp_path / "data")
    items = BENCHMARKS[name].mark_missing_media(parse_items(name, path))
    assert {item.task for item in items} == set(spec.tasks)
    for item in items:
        rubric, n = load_rubric(item.row.rubric), len(item.row.data["responses"])
        example = "".join(f"<answer>{answer}</answer>" for answer in rubric.list_example_answers(n))
        assert parse_answer(example, n, rubric)
        if item.label is not None:
            turn, *_ = build_judge_turns(item.row.load_comparison(), rubric, True)
            assert example in "".join(piece.text for piece in turn.pieces if isinstance(piece, Span))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_resumes_and_writes_its_page(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / "data")
    first = run_benchmark(name, path, tmp_path)
    judgments = (tmp_path / "run" / "judgments.jsonl").read_text()
    resumed = run_benchmark(name, path, tmp_path)
    assert (tmp_path / "run" / "judgments.jsonl").read_text() == judgments
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in resumed.items() if k != "seconds"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert BENCHMARKS[name].spec.title in page
    for result in BENCHMARKS[name].spec.published:
        assert result.judge in page


def test_hub_data_set_with_embedded_images(tmp_path: Path) -> None:
    import datasets

    file = data.write_vl_rewardbench(tmp_path / "files")
    rows = [{**row, "image": str(file.parent / "images" / row["image"])} for row in map(json.loads, file.open())]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    (tmp_path / "data").mkdir()
    table.to_parquet(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    benchmark = BENCHMARKS["vl-rewardbench"]
    for number, name in enumerate((f"hub:{tmp_path / 'data'}@test", str(tmp_path / "data"))):
        settings = {**benchmark.spec.protocol, **JUDGE, "out": str(tmp_path / str(number))}
        summary = main(benchmark, make_config(EvalRun, data=(name,), **settings))
        assert (summary["scored"], summary["not_judged"]) == (3, 0), name
        assert summary["accuracy"] == pytest.approx(2 / 3), name
        assert len(list((tmp_path / str(number) / "pictures").iterdir())) == 1, name


@pytest.mark.slow
def test_replicas_on_ray_judge_like_a_single_judge(tmp_path: Path) -> None:
    path = data.write_llmbar(tmp_path / "data")
    single = run_benchmark("llmbar", path, tmp_path / "single")
    replicated = run_benchmark("llmbar", path, tmp_path / "replicated", replicas=2)
    for name in ("agreement", "tasks", "unscored", "votes"):
        assert replicated[name] == single[name], name
    assert (tmp_path / "replicated" / "run" / "items.jsonl").read_text() == (
        tmp_path / "single" / "run" / "items.jsonl"
    ).read_text()
