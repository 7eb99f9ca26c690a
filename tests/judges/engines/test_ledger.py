"""The ledger stores generations unchanged, under stable keys, for concurrent writers and through crashes."""

from __future__ import annotations

import math
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges.engines.base import Generation, Sampling
from flex_judge.judges.engines.recording.ledger import Ledger, RecordedModel, compute_generation_key
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality

FULL = Generation(
    text="<think>naïve 🙂 \ud83d \0</think>",
    token_ids=(0, 5, 2**31),
    finish_reason="stop",
    logprobs=({5: -0.1, 7: -math.inf}, {}, {7: 0.0, 5: -1e-300}),
    prompt_tokens=812,
    cached_tokens=768,
)
SAMPLING = Sampling(64)
OTHERWISE: dict[str, Any] = {
    "max_tokens": 65,
    "temperature": 0.4,
    "top_p": 0.8,
    "stop": ("</think>",),
    "regex": "[1-5]",
    "logprob_token_ids": (5,),
    "sample_index": 1,
    "seed": 0,
}
"""Field of Sampling -> a value that differs from SAMPLING's."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as ledger:
        yield ledger


def make_key(number: int) -> bytes:
    return compute_generation_key("scripted", "model", (number,), SAMPLING)


def make_generation(number: int) -> Generation:
    return replace(FULL, text=f"reply {number} " + "x" * 200, token_ids=tuple(range(number % 100)))


def make_image(digest: str) -> PreparedMedia:
    return PreparedMedia(Modality.IMAGE, None, digest)


# Storing and reading


def test_get_returns_the_stored_generation_unchanged(ledger: Ledger) -> None:
    for f in fields(Generation):
        assert getattr(FULL, f.name) != f.default, f"FULL has the default value in {f.name}"
    assert ledger.get(make_key(1)) is None
    assert ledger.put(make_key(1), FULL) == FULL
    assert ledger.get(make_key(1)) == FULL
    assert ledger.get(make_key(2)) is None
    assert len(ledger) == 1


def test_generation_persists_after_reopening(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.put(make_key(1), FULL)
    for read_only in (False, True):
        with Ledger(path, read_only) as ledger:
            assert ledger.get(make_key(1)) == FULL


@settings(deadline=None, max_examples=50)
@given(
    text=st.text(st.characters()),
    logprobs=st.lists(st.dictionaries(st.integers(0, 2**32), st.floats(max_value=0, allow_nan=False), max_size=3)),
)
def test_any_text_and_logprobs_round_trip(
    tmp_path_factory: pytest.TempPathFactory, text: str, logprobs: list[dict[int, float]]
) -> None:
    generation = Generation(text, tuple(range(len(logprobs))), "eos", tuple(logprobs))
    with Ledger(tmp_path_factory.mktemp("ledger") / "l") as ledger:
        ledger.put(make_key(1), generation)
        stored = ledger.get(make_key(1))
    assert stored == generation
    assert repr(stored) == repr(generation)  # repr distinguishes -0.0 from 0.0 and 1 from 1.0


def test_long_reasoning_is_compressed(ledger: Ledger, path: Path) -> None:
    thought = Generation("The second answer is more helpful. " * 585, tuple(range(1000, 5096)), "stop")
    for number in range(20):
        ledger.put(make_key(number), thought)
    ledger.close()
    assert path.stat().st_size / 20 < 20_000


def test_put_returns_the_generation_that_was_stored_first(ledger: Ledger) -> None:
    ledger.put(make_key(1), FULL)
    assert ledger.put(make_key(1), replace(FULL, text="another draw")) == FULL
    assert ledger.get(make_key(1)) == FULL


# Keys


@pytest.mark.parametrize("field", fields(Sampling), ids=lambda f: f.name)
def test_key_depends_on_every_sampling_field(field: Any) -> None:
    other = replace(SAMPLING, **{field.name: OTHERWISE[field.name]})
    assert compute_generation_key("vllm", "m", (1, 2), other) != compute_generation_key("vllm", "m", (1, 2), SAMPLING)


@pytest.mark.parametrize(
    "other",
    [
        ("transformers", "m@1", (1, 2), SAMPLING, (make_image("a"), make_image("b"))),
        ("vllm", "m@2", (1, 2), SAMPLING, (make_image("a"), make_image("b"))),
        ("vllm", "m@1", (1, 3), SAMPLING, (make_image("a"), make_image("b"))),
        ("vllm", "m@1", (2, 1), SAMPLING, (make_image("a"), make_image("b"))),
        ("vllm", "m@1", (1, 2, 0), SAMPLING, (make_image("a"), make_image("b"))),
        ("vllm", "m@1", (), SAMPLING, (make_image("a"), make_image("b"))),
        ("vllm", "m@1", (1, 2), SAMPLING, (make_image("b"), make_image("a"))),
        ("vllm", "m@1", (1, 2), SAMPLING, (make_image("a"),)),
        ("vllm", "m@1", (1, 2), SAMPLING, (make_image("ab"),)),
        ("vllm", "m@1", (1, 2), SAMPLING),
    ],
)
def test_key_depends_on_engine_model_prompt_and_media(other: tuple[Any, ...]) -> None:
    key = compute_generation_key("vllm", "m@1", (1, 2), SAMPLING, (make_image("a"), make_image("b")))
    assert len(key) == 32
    assert compute_generation_key(*other) != key


def test_equal_requests_have_equal_keys() -> None:
    key = compute_generation_key("vllm", "m", (1, 2), Sampling(64, temperature=1.0, stop=("a",)), ())
    assert key == compute_generation_key("vllm", "m", [1, 2], Sampling(64, temperature=1, stop=["a"]), [])  # type: ignore[arg-type]
    assert compute_generation_key("vllm", "m", (1,), replace(SAMPLING, temperature=-0.0)) == compute_generation_key(
        "vllm", "m", (1,), SAMPLING
    )


def test_keys_are_stable_across_versions() -> None:
    # After an intended change, increment KEY_FORMAT: existing ledgers then answer no requests.
    key = compute_generation_key(
        "vllm", "m@1", (1, 2), Sampling(64, 0.4, 0.8, ("</think>",), "[1-5]", (5,), 3), (make_image("a"),)
    )
    assert key.hex() == "2206ea66677168af08f2868c13612a2ec2507c248782e297703653deac2e55fd"


# Models


def test_model_is_recorded_once_with_its_longest_context(ledger: Ledger) -> None:
    model = RecordedModel("vllm", "m@1", "chat", 4096)
    ledger.add_model(model, b"files")
    ledger.add_model(replace(model, max_model_len=8192), b"others")
    ledger.add_model(replace(model, max_model_len=512), b"others")
    ledger.add_model(replace(model, engine="transformers"), b"more")
    assert ledger.list_models() == [replace(model, max_model_len=8192), replace(model, engine="transformers")]
    assert [ledger.read_tokenizer(m) for m in ledger.list_models()] == [b"files", b"more"]
    with pytest.raises(LookupError, match="m@2"):
        ledger.read_tokenizer(replace(model, model_id="m@2"))


# Concurrent writers


def _write_generations(path: Path, numbers: range, threads: int) -> None:
    with Ledger(path) as ledger, ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda n: ledger.put(make_key(n), make_generation(n)), numbers):
            pass


def test_concurrent_writers_lose_nothing(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    # The ranges overlap by half, and no file exists when the writers start.
    writers = [
        spawn.Process(target=_write_generations, args=(path, range(100 * i, 100 * i + 200), 4)) for i in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    with Ledger(path) as ledger:
        assert len(ledger) == 500
        assert all(ledger.get(make_key(n)) == make_generation(n) for n in range(500))


def test_repeated_opening_and_closing_causes_no_lock_errors(path: Path) -> None:
    def put_briefly(number: int) -> None:
        with Ledger(path) as ledger:
            ledger.put(make_key(number), FULL)

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(put_briefly, range(200)):
            pass
    with Ledger(path) as ledger:
        assert len(ledger) == 200


ENDLESS_WRITER = """
import sys
from flex_judge.judges.engines.base import Generation, Sampling
from flex_judge.judges.engines.recording.ledger import Ledger, compute_generation_key
ledger = Ledger(sys.argv[1])
for n in range(10**9):
    ledger.put(compute_generation_key("scripted", "model", (n,), Sampling(64)), Generation("x" * 500, (n,), "eos"))
    print(n, flush=True)
"""


def test_killed_writer_keeps_confirmed_generations(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        confirmed = [writer.stdout.readline() for _ in range(300)]
        writer.send_signal(signal.SIGKILL)
        confirmed += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    for read_only in (True, False):
        with Ledger(path, read_only) as ledger:
            assert len(ledger) >= len(confirmed)
            for line in confirmed:
                assert ledger.get(make_key(int(line))) == Generation("x" * 500, (int(line),), "eos")
    with Ledger(path) as ledger:
        assert ledger.put(b"next", FULL) == FULL
