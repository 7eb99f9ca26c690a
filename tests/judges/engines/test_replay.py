"""A replay answers from a ledger as the engine that wrote it did, without its model."""

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


def ask(
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
    """Answer the prompts with a scripted engine of that identity, and keep the answers in the ledger."""
    inner = ScriptedEngine(lambda prompt, _: f"{model_id} says hello to {prompt}", length, profile)
    inner.name, inner.model_id = name, model_id
    engine = RecordingEngine(inner, Ledger(path))
    made = [ask(engine, prompt) for prompt in prompts]
    engine.close()
    return made


def replayed(model: str | Path, **options: int) -> ReplayEngine:
    engine = load_engine(EngineConfig(str(model), engine="replay", **options))  # type: ignore[arg-type]
    assert isinstance(engine, ReplayEngine)
    return engine


def refused(model: str | Path) -> str:
    with pytest.raises(LedgerError) as caught:
        replayed(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_replay_gives_the_same_generations(path: Path) -> None:
    made = record(path, "Ana", "Ben", "naïve 🙂")
    engine = replayed(path)
    assert isinstance(engine, Engine)
    assert [ask(engine, prompt) for prompt in ("Ana", "Ben", "naïve 🙂")] == made
    assert (engine.hits, engine.misses) == (3, 0)
    asyncio.run(engine.check_health())
    engine.close()
    engine.close()


def test_a_replay_is_to_its_callers_what_the_engine_was(path: Path) -> None:
    record(path, "Ana", profile=PROFILES["flex-vl"])
    engine, tokenizer = replayed(path), ScriptedEngine(lambda *_: "", profile=PROFILES["flex-vl"]).tokenizer
    assert (engine.name, engine.model_id, engine.max_model_len) == ("scripted", "judge@1", 500)
    assert engine.profile is PROFILES["flex-vl"]
    assert engine.tokenizer.get_vocab() == tokenizer.get_vocab()
    turns = [{"role": "user", "content": "naïve <|im_end|> 🙂  .\n"}]
    chat = {"tokenize": False, "add_generation_prompt": True}
    assert engine.tokenizer.apply_chat_template(turns, **chat) == tokenizer.apply_chat_template(turns, **chat)
    for split in (False, True):
        text = turns[0]["content"]
        ours = engine.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split)
        assert ours == tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split)


def test_a_replay_changes_nothing(path: Path) -> None:
    record(path, "Ana")
    content = path.read_bytes()
    engine = load_engine(EngineConfig(str(path), engine="replay", ledger=str(path.with_name("other.sqlite"))))
    assert isinstance(engine, ReplayEngine)
    ask(engine, "Ana")
    engine.close()
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_replay_goes_beside_a_run_that_is_still_recording(path: Path) -> None:
    running = RecordingEngine(ScriptedEngine(lambda prompt, _: prompt), Ledger(path))
    engine = replayed(path)
    made = ask(running, "Ana")
    assert ask(engine, "Ana") == made
    engine.close()
    running.close()


@pytest.mark.parametrize(
    ("prompt", "sampling", "media"),
    [("Ben", SAMPLING, ()), ("Ana", replace(SAMPLING, sample_index=1), ()), ("Ana", SAMPLING, (CAT,))],
)
def test_what_was_not_recorded_is_a_typed_error(
    path: Path, prompt: str, sampling: Sampling, media: tuple[PreparedMedia, ...]
) -> None:
    record(path, "Ana")
    engine = replayed(path)
    with pytest.raises(NotRecordedError, match=r"ledger\.sqlite: holds no answer of judge@1 .*3 tokens"):
        ask(engine, prompt, sampling, media)
    assert (engine.hits, engine.misses) == (0, 1)
    engine.close()


def test_a_model_length_can_be_cut_but_not_stretched(path: Path) -> None:
    record(path, "Ana", length=500)
    record(path, "Ana", length=700)
    assert replayed(path, max_model_len=600).max_model_len == 600
    assert replayed(path, max_model_len=8192).max_model_len == 700


# Which ledger, which model


def test_of_several_models_one_is_chosen_by_the_beginning_of_its_name(path: Path) -> None:
    one = record(path, "Ana", model_id="judge@1")
    other = record(path, "Ana", model_id="policy@1")
    assert [ask(replayed(f"{path}#{model}"), "Ana") for model in ("judge", "policy@1")] == [*one, *other]


def test_a_choice_that_is_open_or_empty_lists_the_models_and_how_to_choose(path: Path) -> None:
    record(path, model_id="judge@1")
    record(path, model_id="judge@2", name="vllm")
    message = refused(path)
    assert message.startswith(f"{path}: several models wrote to this ledger")
    assert "scripted:judge@1, vllm:judge@2" in message
    assert f"{path}#MODEL" in message
    assert "several models" in refused(f"{path}#judge")
    assert "no model in this ledger is called 'x'; choose one of scripted:judge@1" in refused(f"{path}#x")


def test_one_model_in_two_engines_is_chosen_with_the_engine(path: Path) -> None:
    record(path, name="vllm")
    record(path, name="transformers")
    assert "several" in refused(f"{path}#judge@1")
    assert replayed(f"{path}#transformers:judge").name == "transformers"


def test_a_name_that_is_written_out_wins_over_one_that_begins_so(path: Path) -> None:
    record(path, model_id="judge")
    record(path, model_id="judge-large")
    assert replayed(f"{path}#judge").model_id == "judge"
    assert replayed(f"{path}#judge-").model_id == "judge-large"


def test_a_ledger_may_have_a_hash_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "run#1"
    record(path)
    assert replayed(path).model_id == "judge@1"
    assert replayed(f"{path}#judge").model_id == "judge@1"


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, path: Path) -> None:
    assert "there is no such ledger" in refused(path)
    assert "there is no such ledger" in refused("smollm2-135m")
    assert "is a folder" in refused(tmp_path)
    path.write_text("id,score\n" * 100)
    assert "file is not a database" in refused(path)


def test_a_ledger_that_no_model_wrote_to_has_nothing_to_replay(path: Path) -> None:
    Ledger(path).close()
    assert "nothing to replay" in refused(path)


def test_a_profile_of_another_version_is_named(path: Path) -> None:
    record(path, profile=Profile("flex-new"))
    assert "'flex-new'" in refused(path)


@pytest.mark.parametrize("broken", [lambda f: b"", lambda f: f[:-9], lambda f: f[:90] + b"\xff" * 60 + f[150:]])
def test_a_damaged_tokenizer_is_named(path: Path, broken: Callable[[bytes], bytes]) -> None:
    record(path)
    with sqlite3.connect(path) as db:
        (files,) = db.execute("SELECT tokenizer FROM models").fetchone()
        db.execute("UPDATE models SET tokenizer = ?", (broken(files),))
    db.close()
    assert "the tokenizer of judge@1 in it is damaged" in refused(path)


def test_a_replay_needs_neither_the_model_nor_its_libraries(path: Path) -> None:
    record(path)
    code = (
        "import sys\nfrom flex_judge.judges.engines import EngineConfig, load_engine\n"
        f"load_engine(EngineConfig({str(path)!r}, engine='replay')).close()\n"
        "print(*({'torch', 'vllm'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == []
