"""`flex-judge judge`: a file or one comparison in, judgments out, every error on one line."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_forms import BAD_TEXT, format_parquet
from PIL import Image

from flex_judge.experiments.cli import main
from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.common.flags import make_config
from flex_judge.experiments.common.judge_config import EMBEDDED_THINK_TOKENS, THINK_TOKENS
from flex_judge.judges.io.files import read_table

SCRIPTED = ["judge", "--engine", "scripted", "--model", "scripts:fair_judge", "--max-think-tokens", "400"]
ROWS: list[dict[str, Any]] = [
    {"id": "sum", "prompt": "What is 2 + 3?", "responses": ["It is 5.", "It is 6."]},
    {"id": "poem", "prompt": "Write a poem.", "responses": ["Roses.", "No.", "Violets."]},
    {"id": "fact", "prompt": "Is water wet?", "responses": ["Yes."]},
    {"id": "odd", "prompt": "Say something.", "responses": ["Something.", "something"]},
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


class Run:
    """Exit status and output of a command."""

    def __init__(self, capfd: pytest.CaptureFixture[str], *arguments: str) -> None:
        capfd.readouterr()
        try:
            self.status = main([*SCRIPTED, *arguments])
        except SystemExit as e:
            self.status = e.code  # type: ignore[assignment]
        self.out, self.err = capfd.readouterr()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def write_comparisons(*rows: dict[str, Any], name: str = "c.jsonl") -> str:
    """Write comparisons to a file and return its name."""
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(rows)), name)
    else:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def read_rows(name: str) -> list[dict[str, Any]]:
    return [row for _, row in read_table(Path(name))]


def list_files() -> set[str]:
    # Without the page and the record of a run, which test_run_pages.py tests.
    return {p.name for p in Path().iterdir() if not p.name.endswith((".html", ".run.json"))}


PAIR = ("--prompt", "What is 2 + 3?", "--response", "It is 5.", "--response", "It is 6.")


def test_prints_scores_outcome_and_reasoning_of_one_comparison(
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = Run(capfd, *PAIR, "--order", "both")
    assert run.status == 0
    assert "rubric general" in run.out
    assert "Response A is better" in run.out or "Response B is better" in run.out
    assert "I look at: It is 5. and It is 6." in run.out
    assert "Vote 2: scores" in run.out
    assert "Assistant 1 is B, Assistant 2 is A" in " ".join(run.out.split())
    assert "judging" not in run.out
    assert "judging" in run.err
    assert not list_files()


def test_json_prints_one_comparison_on_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(capfd, *PAIR, "--json")
    assert run.status == 0
    (row,) = run.rows
    assert (row["status"], len(row["scores"]), row["model"]) == ("ok", 2, "scripts:fair_judge")


def test_reads_prompt_and_responses_from_files(capfd: pytest.CaptureFixture[str]) -> None:
    Path("q.txt").write_text("Who wrote it?")
    Path("a.md").write_text("The bard\nhimself")
    run = Run(capfd, "--prompt", "@q.txt", "--response", "@a.md", "--response", "@@bard", "--json")
    assert run.rows[0]["reasoning"] == "I look at: The bard\nhimself and @bard"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_of_files_are_not_shown_to_the_judge(encoding: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("The bärd\r\nhimself", encoding=encoding, newline="")
    Path("b.txt.gz").write_bytes(gzip.compress("The bärd".encode(encoding)))
    run = Run(capfd, "--prompt", "Who?", "--response", "@a.txt", "--response", "@b.txt.gz", "--json")
    assert run.rows[0]["reasoning"] == "I look at: The bärd\nhimself and The bärd"
    Path("a.txt").write_bytes(b"The b\xe4rd")
    run = Run(capfd, "--prompt", "Who?", "--response", "@a.txt")
    assert run.status == 2
    assert "a.txt: not UTF-8 text; for media, use one of the endings .png" in run.err


def test_control_characters_of_answers_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(capfd, "--prompt", "Hi", "--response", "\x1b[2Jgone [bold]not[/bold] \u202eback", "--response", "ok")
    assert run.status == 0
    assert "\x1b" not in run.out + run.err
    assert "I look at: \\x1b[2Jgone [bold]not[/bold] \\u202eback and ok" in run.out


def test_reports_why_a_comparison_has_no_score(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(capfd, "--prompt", "Hi", "--response", "mumble", "--response", "ok", "--no-force")
    assert run.status == 1
    assert "No score: unparseable (" in run.out
    assert Run(capfd, "--prompt", "Hi", "--response", "mumble", "--no-force", "--max-failures", "1").status == 0


@pytest.mark.parametrize("source", ["--image", "--response"])
def test_text_only_judge_rejects_media(source: str, capfd: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (60, 60)).save("cat.png")
    run = Run(capfd, *PAIR, source, "@cat.png" if source == "--response" else "cat.png")
    assert run.status == 2
    field = "responses[2]" if source == "--response" else "prompt"
    assert run.err.splitlines()[-1] == (
        f"flex-judge: error: the comparison, field {field!r}: cat.png: the model takes no image (chat: text only)"
    )
    assert not run.out


def test_molecule_becomes_text_without_a_molecule_encoder(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(capfd, "--prompt", "Does it pass?", "--molecule", "CCO", "--response", "Yes", "--json")
    assert run.rows[0]["status"] == "ok"


@pytest.mark.parametrize("source", ["c.jsonl", "c.parquet"])
@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_judgments_are_in_the_order_of_the_input_file(source: str, out: str, capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(capfd, write_comparisons(*ROWS, name=source), "--out", out)
    assert (run.status, run.out) == (0, "")
    assert "4 of 4 comparisons scored" in run.err
    assert f"judgments: {out}" in run.err
    rows = read_rows(out)
    assert [row["id"] for row in rows] == ["sum", "poem", "fact", "odd"]
    assert [len(row["scores"]) for row in rows] == [2, 3, 1, 2]
    assert rows[2]["votes"][0]["reasoning"] == "I look at: Yes."
    assert list_files() == {source, out, f"{out}.ledger"}  # an empty log is removed


def test_prints_json_lines_without_out(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(capfd, write_comparisons(*ROWS))
    assert run.status == 0
    assert [row["id"] for row in run.rows] == ["sum", "poem", "fact", "odd"]
    assert "judging" in run.err
    assert "4 of 4 comparisons scored" in run.err
    assert list_files() == {"c.jsonl"}


def test_json_prints_judgments_in_addition_to_out(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(capfd, write_comparisons(*ROWS), "--out", "o.jsonl", "--json")
    assert run.rows == read_rows("o.jsonl")


def test_reads_settings_from_file_and_flags(capfd: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("order: both\nvotes: 3\nout: o.jsonl\nno-ledger: true\n")
    run = Run(capfd, write_comparisons(*ROWS[:1]), "--config", "run.yaml", "--votes", "1")
    assert run.status == 0
    assert len(read_rows("o.jsonl")[0]["votes"]) == 2
    assert "the order of the responses changed the preference in 0.0 % of rounds in all orders" in run.err
    assert list_files() == {"c.jsonl", "run.yaml", "o.jsonl"}


def test_broken_image_fails_only_its_row(capfd: pytest.CaptureFixture[str]) -> None:
    Path("broken.png").write_bytes(b"no image")
    rows = [ROWS[0], {**ROWS[1], "images": ["broken.png"]}, ROWS[2]]
    run = Run(capfd, write_comparisons(*rows), "--out", "o.jsonl")
    assert run.status == 1
    assert "2 of 3 comparisons scored: 1 invalid_input" in run.err
    problem = "c.jsonl, row 2, field 'images[0]': broken.png: cannot be read as image: unknown format"
    assert f"not judged: {problem}" in run.err
    assert [(row["id"], row["status"]) for row in read_rows("o.jsonl")] == [
        ("sum", "ok"),
        ("poem", "invalid_input"),
        ("fact", "ok"),
    ]
    assert read_rows("o.jsonl")[1]["votes"][0]["detail"] == problem
    assert Run(capfd, "c.jsonl", "--out", "o.jsonl", "--max-failures", "1").status == 0


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_every_row_that_cannot_be_judged_has_a_line_with_its_column(
    out: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (5000, 1)).save("long.png")
    Image.new("RGB", (64, 64)).save("good.png")
    part = {"type": "image", "image": "long.png"}
    row = {"prompt": "Hi", "responses": ["good", "bad"]}
    rows = [
        row | {"images": ["good.png"]},
        row | {"images": ["good.png", "long.png"]},
        row | {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, part]}]},
        row | {"responses": ["good", [part]]},
        row | {"images": ["gone.png"]},
        row,
    ]
    command = [*("--model", "scripts:seeing_judge"), write_comparisons(*rows), "--out", out]
    run = Run(capfd, *command)
    assert run.status == 1
    assert "2 of 6 comparisons scored: 4 invalid_input" in run.err
    fields = ["images[1]", "prompt[0].content[1].image", "responses[1][0].image", "images[0]"]
    details = [row["votes"][0]["detail"] for row in read_rows(out)[1:5]]
    for number, (field, detail) in enumerate(zip(fields, details, strict=True), 2):
        assert detail.startswith(f"c.jsonl, row {number}, field {field!r}: ")
        assert f"not judged: {detail}" in run.err
    assert [row["status"] for row in read_rows(out)] == ["ok", *["invalid_input"] * 4, "ok"]
    assert Run(capfd, *command, "--max-failures", "4").status == 0
    for name in ("long.png", "gone.png"):  # the user fixes the files
        Image.new("RGB", (64, 64), "red").save(name)
    run = Run(capfd, *command)
    assert (run.status, [row["status"] for row in read_rows(out)]) == (0, ["ok"] * 6)
    assert "reused from earlier runs: 2 judgments" in run.err


def test_only_invalid_rows_make_a_valid_file(capfd: pytest.CaptureFixture[str]) -> None:
    missing = {"prompt": "Hi", "responses": ["ok"], "images": ["gone.png"]}
    for out in ("o.jsonl", "o.parquet"):
        assert Run(capfd, write_comparisons(missing, missing), "--out", out).status == 1
        assert [row["status"] for row in read_rows(out)] == ["invalid_input"] * 2
        assert Run(capfd, "c.jsonl", "--out", out, "--max-failures", "2").status == 0


def test_counts_comparisons_without_a_score_by_reason(capfd: pytest.CaptureFixture[str]) -> None:
    mumbled = {"prompt": "Hi", "responses": ["mumble", "ok"]}
    long = {"prompt": "Hi", "responses": ["x" * 16000, "ok"]}
    missing = {"prompt": "Hi", "responses": ["ok"], "images": ["gone.png"]}
    rows = write_comparisons(ROWS[0], mumbled, long, mumbled | {"prompt": "Ho"}, missing)
    run = Run(capfd, rows, "--no-force", "--max-failures", "3")
    assert run.status == 1
    assert "1 of 5 comparisons scored: 1 invalid_input, 1 overlong, 2 unparseable" in run.err
    assert [row["scores"] is None for row in run.rows] == [False, True, True, True, True]
    assert Run(capfd, rows, "--no-force", "--max-failures", "4").status == 0


def test_log_names_all_failed_rows(capfd: pytest.CaptureFixture[str]) -> None:
    missing = [{"prompt": "Hi", "responses": ["ok"], "images": [f"gone{i}.png"]} for i in range(12)]
    run = Run(capfd, write_comparisons(ROWS[0], *missing), "--out", "o.jsonl")
    assert run.err.count("not judged: c.jsonl, row") == 10
    assert "and 2 more rows were not judged" in run.err
    assert "all rows that were not judged: o.jsonl.log" in run.err
    assert "not judged: c.jsonl, row 13, field 'images[0]': gone11.png" in Path("o.jsonl.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "judge takes either a FILE of comparisons, or --prompt"),
        (["--prompt", "a"], "--prompt needs at least one --response"),
        (
            ["c.jsonl", "--prompt", "a"],
            "judge takes either a FILE of comparisons, or --prompt, --response and media flags",
        ),
        (["c.jsonl", "--response", "a"], "not both"),
        (["c.jsonl", "--image", "a.png"], "not both"),
        (["gone.jsonl"], "gone.jsonl: cannot be read: No such file or directory"),
        (["c.xlsx"], "c.xlsx: expected a file that ends in .jsonl, .json, .csv, .tsv or .parquet"),
        (["bad.jsonl"], "bad.jsonl, row 1: field 'responses' is missing"),
        (["bad.jsonl", "--out", "o.jsonl"], "bad.jsonl, row 1: field 'responses' is missing"),
        (["c.jsonl", "--out", "o.txt"], "--out o.txt: expected a file that ends in .jsonl or .parquet"),
        (["c.jsonl", "--out", "c.jsonl"], "--out c.jsonl: is also the FILE; choose another"),
        (["c.jsonl", "--out", "o.jsonl", "--ledger", "./o.jsonl"], "--out o.jsonl: is also the --ledger"),
        (["c.jsonl", "--out", "c.jsonl/o.jsonl"], "c.jsonl/o.jsonl: cannot be written: "),
        (["c.jsonl", "--rubric", "generl"], "rubric 'generl' does not exist (did you mean 'general'?)"),
        (["--prompt", "a", "--response", "b", "--rubric", "pandalm"], "rubric 'pandalm' is made for 2 responses"),
        (["--prompt", "a", "--response", "@gone.txt"], "gone.txt: cannot be read: No such file or directory; for a"),
        (["--prompt", "a", "--response", "@."], ".: cannot be read: Is a directory"),
        (["--prompt", "a", "--response", "b", "--image", "gone.png"], "gone.png: cannot be read: No such file"),
        (["--prompt", "a", "--response", "b", "--molecule", "C C"], "expected SMILES, one line of text"),
        (["c.jsonl", "--ledger", "l", "--no-ledger"], "--ledger and --no-ledger exclude each other"),
        (["c.jsonl", "--replay", "l", "--ledger", "m"], "--replay reads a ledger and writes none"),
        (["c.jsonl", "--replay", "gone.ledger", "--out", "o.jsonl"], "gone.ledger: there is no such ledger"),
        (["c.jsonl", "--votes", "0"], "votes must be at least 1, not 0"),
        (["c.jsonl", "--max-think-tokens", "0"], "--max-think-tokens must be at least 1, not 0"),
        (["c.jsonl", "--votes", "3", "--temperature", "0"], "votes above 1 need a temperature above 0"),
        (["c.jsonl", "--max-failures", "-1"], "--max-failures must be at least 0, not -1"),
        (["c.jsonl", "--concurrency", "0"], "--concurrency must be at least 1, not 0"),
        (["c.jsonl", "--image-max-pixels", "0"], "--image-max-pixels must be at least 1, not 0"),
        (["c.jsonl", "--video-fps", "nan"], "--video-fps must be above 0, not nan"),
        (["c.jsonl", "--order", "sideways"], "argument --order: invalid choice: 'sideways'"),
        (["c.jsonl", "--model", "no-colon", "--out", "o.jsonl", "--no-ledger"], "expected a script as module:function"),
        (["c.jsonl", "--engine", "transformers", "--model", "no/model", "--out", "o.jsonl"], "model 'no/model' is no"),
        (["c.jsonl", "--config", "wrong.yaml"], "wrong.yaml: unknown setting 'vote'; did you mean 'votes'?"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_no_file(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_comparisons(*ROWS)
    write_comparisons({"prompt": "a"}, {"prompt": "b"}, name="bad.jsonl")
    Path("wrong.yaml").write_text("vote: 3")
    files = list_files()
    run = Run(capfd, *arguments)
    assert (run.status, run.out) == (2, "")
    error = [line for line in run.err.splitlines() if "loading the judge" not in line]
    assert len(error) == 1
    assert error[0].startswith(("flex-judge: error: ", "flex-judge judge: error: "))
    assert message in error[0]
    assert list_files() == files


@pytest.mark.parametrize("name", ["c.jsonl", "c.json", "c.parquet"])
def test_rows_that_cannot_be_read_are_failed_rows_and_the_others_are_judged(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS, {"id": "none", "prompt": "a"}, {"id": "sum", "prompt": "a", "responses": ["b"]}]
    if name == "c.parquet":
        rows[1] = {"id": "poem", "prompt": BAD_TEXT, "responses": ["a"]}
        Path(name).write_bytes(format_parquet(rows))
    else:
        texts = [json.dumps(row) for row in rows]
        texts[1] = '{"id": "poem", broken}'
        Path(name).write_text("\n".join(texts) if name == "c.jsonl" else f"[{','.join(texts)}]")
    for status, flags in ((1, ["--max-failures", "2"]), (0, ["--max-failures", "3"])):
        run = Run(capfd, name, "--out", "o.jsonl", *flags)
        assert run.status == status
        judgments = read_rows("o.jsonl")
        assert [row["id"] for row in judgments if row["status"] == "ok"] == ["sum", "fact", "odd"]
        assert (len(judgments), [row["status"] for row in judgments].count("invalid_input")) == (6, 3)
        assert re.search(rf"not judged: {name}, (row|line) 2[:,] ", run.err)
        assert f"not judged: {name}, row 5: field 'responses' is missing" in run.err
        assert f"not judged: {name}, row 6, field 'id': 'sum' is also the id of {name}, row 1" in run.err
        assert "3 of 6 comparisons scored: 3 invalid_input" in run.err
    assert "reused from earlier runs: 3 judgments" in run.err  # of the second run, which resumed the first one


def test_run_resumes_after_broken_rows_are_mended_and_others_break(capfd: pytest.CaptureFixture[str]) -> None:
    texts = [json.dumps(row) for row in ROWS]
    for broken, statuses in (
        (1, {"sum": "ok", "2": "invalid_input", "fact": "ok"}),
        (None, {"sum": "ok", "poem": "ok", "fact": "ok"}),
        (0, {"1": "invalid_input", "poem": "ok", "fact": "ok"}),
        (None, {"sum": "ok", "poem": "ok", "fact": "ok"}),
    ):
        Path("c.jsonl").write_text("\n".join("broken" if i == broken else text for i, text in enumerate(texts)))
        run = Run(capfd, "c.jsonl", "--out", "o.jsonl")
        assert run.status == (broken is not None)
        judged = {row["id"]: row["status"] for row in read_rows("o.jsonl")}
        assert {row_id: status for row_id, status in judged.items() if row_id != "odd"} == statuses
    assert "not JSON" not in run.err
    Path("c.jsonl").write_text(texts[0])
    assert "holds a judgment of 'poem', which is not in this run" in Run(capfd, "c.jsonl", "--out", "o.jsonl").err


@pytest.mark.parametrize(
    "content",
    [
        '{"id": "sum", "prompt": "a", "responses": ["b"]}\n',
        '{"id": "sum", "prompt": "a", "responses": ["b"]}',
        "years of work\n",
        "years of work",
        "[1]",
        '{"name": "sum"}\n{"name": "pro',
    ],
)
def test_rejects_a_foreign_file_and_leaves_it_unchanged(content: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("o.jsonl").write_text(content)
    run = Run(capfd, write_comparisons(*ROWS), "--out", "o.jsonl")
    assert run.status == 2
    assert run.err == "flex-judge: error: o.jsonl: holds something other than judgments; choose another --out\n"
    assert Path("o.jsonl").read_text() == content
    assert list_files() == {"c.jsonl", "o.jsonl"}


def test_rejects_a_foreign_parquet_file_and_leaves_it_unchanged(capfd: pytest.CaptureFixture[str]) -> None:
    write_comparisons({"name": "sum"}, name="o.parquet")
    content = Path("o.parquet").read_bytes()
    run = Run(capfd, write_comparisons(*ROWS), "--out", "o.parquet")
    assert run.status == 2
    assert run.err == "flex-judge: error: o.parquet: holds something other than judgments; choose another --out\n"
    assert Path("o.parquet").read_bytes() == content
    assert list_files() == {"c.jsonl", "o.parquet"}


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_rejects_judgments_of_other_comparisons_and_leaves_them_unchanged(
    out: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Run(capfd, write_comparisons(*ROWS), "--out", out)
    content = Path(out).read_bytes()
    run = Run(capfd, write_comparisons(*ROWS[1:]), "--out", out)
    assert run.status == 2
    assert f"{out}: holds a judgment of 'sum', which is not in this run; choose another --out" in run.err
    assert Path(out).read_bytes() == content


def test_replay_reproduces_judgments_byte_for_byte_without_the_model(capfd: pytest.CaptureFixture[str]) -> None:
    settings = ("--votes", "3", "--order", "random", "--out")
    Run(capfd, write_comparisons(*ROWS), *settings, "o.jsonl")
    ledger = Path("o.jsonl.ledger").read_bytes()
    replay = Run(capfd, "c.jsonl", *settings, "r.jsonl", "--replay", "o.jsonl.ledger", "--model", "no:model")
    assert replay.status == 0
    assert Path("r.jsonl").read_bytes() == Path("o.jsonl").read_bytes()
    assert Path("o.jsonl.ledger").read_bytes() == ledger
    assert list_files() == {"c.jsonl", "o.jsonl", "o.jsonl.ledger", "r.jsonl"}


def test_replay_reports_unrecorded_rows_and_judges_the_others(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Run(capfd, write_comparisons(*ROWS), "--out", "o.jsonl")
    new = {"id": "new", "prompt": "New?", "responses": ["Yes.", "No."]}
    replay = Run(capfd, write_comparisons(ROWS[0], new, *ROWS[1:]), "--replay", "o.jsonl.ledger")
    assert replay.status == 1
    assert [row["id"] for row in replay.rows] == ["sum", "poem", "fact", "odd"]
    assert "4 of 5 comparisons scored: 1 not judged" in replay.err
    assert "not judged: c.jsonl, row 2: o.jsonl.ledger: holds no answer of scripts:fair_judge to this" in replay.err
    one = Run(capfd, "--prompt", "New?", "--response", "Yes", "--replay", "o.jsonl.ledger")
    assert one.status == 2
    assert "the comparison: o.jsonl.ledger: holds no answer" in one.err


def test_replay_has_the_thinking_budget_of_the_recorded_model() -> None:
    run = make_config(JudgeRun, replay="some.ledger")
    assert run.build_settings("smollm2-135m@0123456789ab").max_think_tokens == EMBEDDED_THINK_TOKENS
    assert run.build_settings("org/large@0123456789ab+mine@0123456789ab").max_think_tokens == THINK_TOKENS
    chosen = make_config(JudgeRun, replay="some.ledger", max_think_tokens=77)
    assert chosen.build_settings("smollm2-135m@0123456789ab").max_think_tokens == 77


def test_closed_pipe_is_no_error() -> None:
    command = [sys.executable, "-m", "flex_judge.experiments.cli", *SCRIPTED, write_comparisons(*ROWS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert "Traceback" not in error
    assert "BrokenPipe" not in error


def test_help_lists_flags_under_headings(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(capfd, "--help")
    assert run.status == 0
    assert "usage: flex-judge judge FILE [options]" in run.out
    assert "mllm_judge_batch, " in " ".join(run.out.split())
    for heading in ("single comparison, instead of a FILE:", "judge model:", "judging:", "media limits:", "results:"):
        assert heading in run.out
    assert max(map(len, run.out.splitlines())) <= 100
