"""The replay engine answers from a ledger like the recorded engine, without its model."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flex_judge.judges.engines import Engine, EngineConfig, Generation, Sampling, load_engine
from flex_judge.judges.engines.recording.ledger import Ledger
from flex_judge.judges.engines.recording.recording import RecordingEngine
from flex_judge.judges.engines.recording.replay import ReplayEngine
from flex_judge.judges.engines.scripted import ScriptedEngine, build_byte_tokenizer
from flex_judge.judges.errors import LedgerError, NotRecordedError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.profiles import CHAT, PROFILES, Profile

SAMPLING = Sampling(1000, temperature=0.4, logprob_token_ids=(40, 41))
CAT = PreparedMedia(Modality.IMAGE, None, "cat")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def encode(text: str) -> list[int]:
    return list(build_byte_tokenizer().encode(text, add_special_tokens=False))


def generate(
    engine: Engine, prompt: str, sampling: Sampling = SAMPLING, media: tuple[PreparedMedia, ...] = ()
) -> Generation:
    return asyncio.run(engine.generate(encode(prompt), sampling, media))


def record(
    path: Path,
    *prompts: str,
    model_id: str = "judge@1",
    name: str = "scripted",
    profile: Profile = CHAT,
    length: int = 500,
) -> list[Generation]:
    """Answer the prompts with a scripted engine of the given identity and record the answers."""
    inner = ScriptedEngine(lambda prompt, _: f"{model_id} says hello to {prompt}", length, profile)
    inner.name, inner.model_id = name, model_id
    engine = RecordingEngine(inner, Ledger(path))
    generations = [generate(engine, prompt) for prompt in prompts]
    engine.close()
    return generations


def open_replay(model: str | Path, **options: int) -> ReplayEngine:
    engine = load_engine(EngineConfig(str(model), engine="replay", **options))  # type: ignore[arg-type]
    assert isinstance(engine, ReplayEngine)
    return engine


def get_open_error(model: str | Path) -> str:
    with pytest.raises(LedgerError) as caught:
        open_replay(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_replay_returns_the_recorded_generations(path: Path) -> None:
    recorded = record(path, "Ana", "Ben", "naïve 🙂")
    engine = open_replay(path)
    assert isinstance(engine, Engine)
    assert [generate(engine, prompt) for prompt in ("Ana", "Ben", "naïve 🙂")] == recorded
    assert (engine.hits, engine.misses) == (3, 0)
    asyncio.run(engine.check_health())
    engine.close()
    engine.close()


def test_replay_has_the_identity_of_the_recorded_engine(path: Path) -> None:
    record(path, "Ana", profile=PROFILES["flex-vl"])
    engine, tokenizer = open_replay(path), ScriptedEngine(lambda *_: "", profile=PROFILES["flex-vl"]).tokenizer
    assert (engine.name, engine.model_id, engine.max_model_len) == ("scripted", "judge@1", 500)
    assert engine.profile is PROFILES["flex-vl"]
    assert engine.tokenizer.get_vocab() == tokenizer.get_vocab()
    turns = [{"role": "user", "content": "naïve <|im_end|> 🙂  .\n"}]
    chat = {"tokenize": False, "add_generation_prompt": True}
    assert engine.tokenizer.apply_chat_template(turns, **chat) == tokenizer.apply_chat_template(turns, **chat)
    for split in (False, True):
        text = turns[0]["content"]
        ids = engine.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split)
        assert ids == tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split)


def test_replay_leaves_the_ledger_unchanged(path: Path) -> None:
    record(path, "Ana")
    content = path.read_bytes()
    engine = load_engine(EngineConfig(str(path), engine="replay", ledger=str(path.with_name("other.sqlite"))))
    assert isinstance(engine, ReplayEngine)
    generate(engine, "Ana")
    engine.close()
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_replay_reads_while_another_run_records(path: Path) -> None:
    running = RecordingEngine(ScriptedEngine(lambda prompt, _: prompt), Ledger(path))
    engine = open_replay(path)
    recorded = generate(running, "Ana")
    assert generate(engine, "Ana") == recorded
    engine.close()
    running.close()


@pytest.mark.parametrize(
    ("prompt", "sampling", "media"),
    [("Ben", SAMPLING, ()), ("Ana", replace(SAMPLING, sample_index=1), ()), ("Ana", SAMPLING, (CAT,))],
)
def test_unrecorded_request_raises_not_recorded_error(
    path: Path, prompt: str, sampling: Sampling, media: tuple[PreparedMedia, ...]
) -> None:
    record(path, "Ana")
    engine = open_replay(path)
    with pytest.raises(NotRecordedError, match=r"ledger\.sqlite: holds no answer of judge@1 .*3 tokens"):
        generate(engine, prompt, sampling, media)
    assert (engine.hits, engine.misses) == (0, 1)
    engine.close()


def test_context_length_can_be_reduced_but_not_extended(path: Path) -> None:
    record(path, "Ana", length=500)
    record(path, "Ana", length=700)
    assert open_replay(path, max_model_len=600).max_model_len == 600
    assert open_replay(path, max_model_len=8192).max_model_len == 700


# Selecting the ledger and the model


def test_model_is_selected_by_prefix(path: Path) -> None:
    judge_replies = record(path, "Ana", model_id="judge@1")
    policy_replies = record(path, "Ana", model_id="policy@1")
    assert [generate(open_replay(f"{path}#{model}"), "Ana") for model in ("judge", "policy@1")] == [
        *judge_replies,
        *policy_replies,
    ]


def test_ambiguous_or_unknown_model_lists_the_choices(path: Path) -> None:
    record(path, model_id="judge@1")
    record(path, model_id="judge@2", name="vllm")
    message = get_open_error(path)
    assert message.startswith(f"{path}: several models wrote to this ledger")
    assert "scripted:judge@1, vllm:judge@2" in message
    assert f"{path}#MODEL" in message
    assert "several models" in get_open_error(f"{path}#judge")
    assert "no model in this ledger is called 'x'; choose one of scripted:judge@1" in get_open_error(f"{path}#x")


def test_model_of_two_engines_is_selected_with_the_engine(path: Path) -> None:
    record(path, name="vllm")
    record(path, name="transformers")
    assert "several" in get_open_error(f"{path}#judge@1")
    assert open_replay(f"{path}#transformers:judge").name == "transformers"


def test_exact_model_name_wins_over_prefix(path: Path) -> None:
    record(path, model_id="judge")
    record(path, model_id="judge-large")
    assert open_replay(f"{path}#judge").model_id == "judge"
    assert open_replay(f"{path}#judge-").model_id == "judge-large"


def test_ledger_path_may_contain_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "run#1"
    record(path)
    assert open_replay(path).model_id == "judge@1"
    assert open_replay(f"{path}#judge").model_id == "judge@1"


def test_file_that_is_not_a_ledger_is_rejected(tmp_path: Path, path: Path) -> None:
    assert "there is no such ledger" in get_open_error(path)
    assert "there is no such ledger" in get_open_error("smollm2-135m")
    assert "is a folder" in get_open_error(tmp_path)
    path.write_text("id,score\n" * 100)
    assert "file is not a database" in get_open_error(path)


def test_ledger_without_models_is_rejected(path: Path) -> None:
    Ledger(path).close()
    assert "nothing to replay" in get_open_error(path)


def test_unknown_profile_is_named_in_the_error(path: Path) -> None:
    record(path, profile=Profile("flex-new"))
    assert "'flex-new'" in get_open_error(path)


@pytest.mark.parametrize("broken", [lambda f: b"", lambda f: f[:-9], lambda f: f[:90] + b"\xff" * 60 + f[150:]])
def test_damaged_tokenizer_is_named_in_the_error(path: Path, broken: Callable[[bytes], bytes]) -> None:
    record(path)
    with sqlite3.connect(path) as db:
        (files,) = db.execute("SELECT tokenizer FROM models").fetchone()
        db.execute("UPDATE models SET tokenizer = ?", (broken(files),))
    db.close()
    assert "the tokenizer of judge@1 is damaged" in get_open_error(path)


def test_replay_imports_no_model_library(path: Path) -> None:
    record(path)
    code = (
        "import sys\nfrom flex_judge.judges.engines import EngineConfig, load_engine\n"
        f"load_engine(EngineConfig({str(path)!r}, engine='replay')).close()\n"
        "print(*({'torch', 'vllm'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == []
