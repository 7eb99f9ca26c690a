"""Policies: reproducible samples from the built-in engines and from external packages."""

from __future__ import annotations

import asyncio
import importlib
import pickle
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doc_pages import parse_page
from PIL import Image
from repository import DOCS
from tiny_engines import TinyEngines
from tiny_models import tiny_llama

from flex_judge.alignment.policies import (
    EnginePolicy,
    Policy,
    PolicyConfig,
    check_policy,
    list_policy_names,
    load_policy,
)
from flex_judge.judges import Comparison, EngineConfig, Message, UsageError
from flex_judge.judges.engines import Sampling, load_engine
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import EngineLostError, EngineUnavailableError, MediaError, ModelNotFoundError
from flex_judge.judges.media.opening import make_audio
from flex_judge.judges.media.prepared import MediaLimits

DOCUMENT = DOCS / "guides" / "policies.md"
PROMPT = (Message("user", "Name a colour."),)
WARM = Sampling(16, 0.8, top_p=0.9)


def make_policy(script: Callable[[str, Sampling], Any], **options: Any) -> EnginePolicy:
    return EnginePolicy(ScriptedEngine(script, **options))


def echo_seed(prompt: str, sampling: Sampling) -> str:
    return f" {sampling.seed} "


def sample_texts(
    policy: Policy, sampling: Sampling, sample_indices: Sequence[int], prompt: Sequence[Message] = PROMPT
) -> list[str]:
    return [c.text for c in asyncio.run(policy.sample(prompt, sampling, sample_indices))]


# EnginePolicy


def test_completions_are_in_order_of_their_indices() -> None:
    async def answer_last_index_first(prompt: str, sampling: Sampling) -> str:
        await asyncio.sleep(0.02 / (1 + sampling.sample_index))
        return f"sample {sampling.sample_index}"

    policy = make_policy(answer_last_index_first)
    assert isinstance(policy, Policy)
    assert sample_texts(policy, WARM, [4, 0, 2]) == ["sample 4", "sample 0", "sample 2"]
    assert policy.model_id == "scripted"


def test_trims_at_the_stop_string_and_reports_truncation() -> None:
    replies = {"stop": " red\nor blue", "eos": " red ", "length": "a very long story"}
    for reason, reply in replies.items():
        policy = make_policy(lambda *_, reply=reply: reply)
        (c,) = asyncio.run(policy.sample(PROMPT, Sampling(8, 1.0, stop=("\n",)), [0]))
        assert c.cut == (reason == "length")
        assert c.text == ("a very l" if c.cut else "red")
        assert c.tokens == {"stop": 5, "eos": 5, "length": 8}[reason]


def test_unseeded_samples_have_no_seed_but_distinct_indices() -> None:
    policy = make_policy(echo_seed)
    assert sample_texts(policy, WARM, range(3)) == ["None"] * 3
    assert [sampling.sample_index for _, sampling in policy.engine.requests] == [0, 1, 2]  # type: ignore[attr-defined]


def test_each_sample_has_its_own_stable_seed() -> None:
    seeded = replace(WARM, seed=3)
    policy = make_policy(echo_seed)
    seeds = sample_texts(policy, seeded, range(8))
    assert len(set(seeds)) == 8
    assert sample_texts(policy, seeded, [5, 2]) == [seeds[5], seeds[2]]
    other_seeds = [
        sample_texts(policy, replace(seeded, seed=4), range(8)),
        sample_texts(policy, replace(seeded, temperature=0.4), range(8)),
        sample_texts(policy, seeded, range(8), [Message("user", "Name another.")]),
        sample_texts(policy, seeded, range(8), [Message("system", "Name a colour.")]),
    ]
    assert len({seed for row in (seeds, *other_seeds) for seed in row}) == 40
    assert sample_texts(policy, replace(seeded, temperature=1), [0]) == sample_texts(
        policy, replace(seeded, temperature=1.0), [0]
    )


def test_seeds_do_not_change_between_versions() -> None:
    # Otherwise a run that is resumed after an update would mix samples of both versions.
    assert sample_texts(make_policy(echo_seed), replace(WARM, seed=3), [0, 1]) == ["1864120294", "652686630"]


@pytest.mark.parametrize("sample_indices", [[0, 1], [3]])
def test_rejects_several_greedy_samples(sample_indices: list[int]) -> None:
    policy = make_policy(echo_seed)
    with pytest.raises(UsageError, match="greedy samples of a prompt are all the same"):
        sample_texts(policy, Sampling(8), sample_indices)
    assert len(sample_texts(policy, Sampling(8), [0])) == 1


def test_rejects_a_prompt_that_leaves_no_room() -> None:
    policy = make_policy(echo_seed, max_model_len=100)
    with pytest.raises(UsageError, match=r"the prompt has \d+ tokens and 16 .* more than the policy's 100"):
        sample_texts(policy, WARM, [0], [Message("user", "long " * 20)])


def test_rejects_a_prompt_that_the_template_rejects() -> None:
    with pytest.raises(UsageError, match="cannot be rendered for scripted"):
        sample_texts(make_policy(echo_seed), WARM, [0], [Message("<|im_end|>", "Hello?")])


def test_rejects_media_that_the_model_does_not_take() -> None:
    with pytest.raises(MediaError, match="takes no audio"):
        sample_texts(make_policy(echo_seed), WARM, [0], [Message("user", (make_audio([0.0] * 99, rate=16000),))])


def test_control_tokens_in_a_prompt_stay_text() -> None:
    policy = make_policy(echo_seed)
    sample_texts(policy, WARM, [0], [Message("user", "<|im_end|>")])
    ((ids, _),) = policy.engine.given  # type: ignore[attr-defined]
    end = policy.engine.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 1  # the template's own


def test_lost_engine_raises_one_error_and_cancels_the_other_samples() -> None:
    cancelled = []

    async def script(prompt: str, sampling: Sampling) -> str:
        if sampling.sample_index == 2:
            raise EngineLostError("gone")
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            cancelled.append(sampling.sample_index)
            raise
        return ""

    with pytest.raises(EngineLostError, match="gone"):
        sample_texts(make_policy(script), WARM, range(4))
    assert sorted(cancelled) in ([0, 1], [0, 1, 3])  # the last one may not have begun


def test_dropped_request_is_not_mistaken_for_a_cancelled_call() -> None:
    async def script(prompt: str, sampling: Sampling) -> str:
        raise asyncio.CancelledError

    with pytest.raises(EngineLostError, match="dropped"):
        sample_texts(make_policy(script), WARM, [0])


def test_closing_the_policy_closes_its_engine() -> None:
    policy = make_policy(echo_seed)
    asyncio.run(policy.check_health())
    policy.close()
    with pytest.raises(EngineLostError):
        asyncio.run(policy.check_health())


def test_ledger_replays_the_same_seeds_only(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger")
    config = PolicyConfig("scripts:policy", "scripted", ledger=path)
    policy = load_policy(config)
    first = sample_texts(policy, replace(WARM, seed=1), range(4))  # the script counts its calls, so each text is new
    unseeded = sample_texts(policy, WARM, range(4))
    policy.close()
    replay = load_policy(PolicyConfig(path, "replay"))
    assert sample_texts(replay, replace(WARM, seed=1), range(4)) == first
    assert sample_texts(replay, WARM, range(4)) == unseeded
    replay.close()
    again = load_policy(config)
    other = sample_texts(again, replace(WARM, seed=2), range(4))
    assert again.engine.misses == 4  # type: ignore[attr-defined]
    assert len(other) == 4
    again.close()


# Configuration


def test_configuration_is_picklable() -> None:
    config = PolicyConfig("scripts:judge", "scripted", max_batch=3, media=MediaLimits(video_fps=1.0), options={})
    restored = pickle.loads(pickle.dumps(config))
    assert restored == config
    policy = load_policy(restored)
    assert isinstance(policy, EnginePolicy)
    assert policy.model_id == "scripts:judge"


def test_unknown_policy_lists_the_known_ones() -> None:
    with pytest.raises(EngineUnavailableError, match=r"'vlm' does not exist; choose one of auto, .*vllm.*, openai"):
        check_policy(PolicyConfig("m", "vlm"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"engine": "openai"}, "needs a url"),
     ({"url": "http://h", "adapter": "a"}, "adapter does not apply to an endpoint"),
     ({"url": "http://h", "ledger": "l"}, "ledger does not apply to an endpoint"),
     ({"url": "ftp://h"}, "url: expected"),
     ({"url": "http://h", "api_key": "env:NOT_SET_AT_ALL"}, "NOT_SET_AT_ALL is not set"),
     ({"engine": "scripted", "url": "http://h"}, "url is for engine openai"),
     ({"model": "http://h/v1#m"}, "a policy at an address has engine openai"),
     ({"engine": "remote"}, "a policy at an address has engine openai"),
     ({"engine": "transformers", "options": {"top_k": 1}}, "options is for engine openai")],
)  # fmt: skip
def test_rejects_contradictory_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_policy(PolicyConfig(**{"model": "m", **settings}))


def test_finds_a_missing_model_before_loading() -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        check_policy(PolicyConfig("no-such-model", "transformers"))


# The transformers engine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyEngines]:
    engines = TinyEngines(tmp_path_factory.mktemp("tiny"))
    yield engines
    engines.close()


def test_sampler_matches_the_requested_distribution() -> None:
    import torch

    from flex_judge.judges.engines.hf.engine import RowSampler

    rows = 4000
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]]).repeat(rows, 1)
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (2, 0.8)):
        sampler = RowSampler(temperature, top_p, list(range(rows)), "cpu")
        counts = Counter(sampler(torch.zeros(rows, 1), scores).argmax(-1).tolist())
        expected = torch.softmax(scores[0] / temperature, -1)
        if top_p < 1:  # 0.455, 0.276, 0.167, 0.102: the last one is outside the top 0.8
            expected = expected * torch.tensor([1, 1, 1, 0, 0])
            expected = expected / expected.sum()
        for token, p in enumerate(expected.tolist()):
            assert abs(counts[token] / rows - p) < 4 * (p * (1 - p) / rows) ** 0.5 + 1e-9


def test_seeded_sample_does_not_depend_on_the_batch(tiny: TinyEngines) -> None:
    policy = EnginePolicy(tiny("llama"))
    seeded = Sampling(12, 1.0, top_p=0.95, seed=11)

    async def sample_with_others() -> tuple[list[Any], ...]:
        other_prompts = [Message("user", f"What is seen in image {k}? " * k) for k in range(1, 4)]
        requests = [
            policy.sample([other], sampling, [0]) for other in other_prompts for sampling in (seeded, Sampling(12, 1.0))
        ]
        return tuple(await asyncio.gather(policy.sample(PROMPT, seeded, [2, 0]), *requests))

    alone = sample_texts(policy, seeded, range(4))
    assert len(set(alone)) == 4
    assert [c.text for c in asyncio.run(sample_with_others())[0]] == [alone[2], alone[0]]
    assert sample_texts(policy, Sampling(12, 1.0), [0]) != sample_texts(
        policy, Sampling(12, 1.0), [0]
    )  # unseeded samples differ


def test_samples_prompts_with_images(tiny: TinyEngines) -> None:
    policy = EnginePolicy(tiny("vl"), MediaLimits(image_max_pixels=56 * 56))
    prompts = [
        Comparison.of("What is it?", "", images=[Image.new("RGB", (300, 200), colour)]).prompt
        for colour in ("red", "blue")
    ]
    seeded = Sampling(8, 1.0, seed=0)
    red, blue = (sample_texts(policy, seeded, range(3), prompt) for prompt in prompts)
    assert len({*red, *blue}) > 3
    assert sample_texts(policy, seeded, range(3), prompts[0]) == red
    with pytest.raises(UsageError, match="more than the policy's"):
        sample_texts(EnginePolicy(tiny("vl")), Sampling(4000, 1.0), [0], prompts[0])


# External packages


def install_package(folder: Path, toml: str, module: str) -> None:
    """Install a package as pip would: its module and its metadata with the entry points."""
    project = tomllib.loads(toml)["project"]
    folder.mkdir()
    (name,) = {value.partition(":")[0] for value in project["entry-points"]["flex_judge.policies"].values()}
    (folder / f"{name}.py").write_text(module)
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{k} = {v}" for k, v in project["entry-points"]["flex_judge.policies"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[flex_judge.policies]", *lines, ""]))


def test_documented_example_is_a_policy_when_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = parse_page(DOCUMENT.read_text(), DOCUMENT.name)
    files = {block.title: block.code for block in blocks if block.is_file}
    configurations, use = (block.code for block in blocks if block.language == "python" and block.is_runnable)
    exec(configurations, {})
    install_package(tmp_path / "site", files["pyproject.toml"], files["mol_llama_policy.py"])
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    assert list_policy_names()[-1] == "mol-llama"
    checkpoint = str(tiny_llama(tmp_path / "llama"))
    variables: dict[str, Any] = {"asyncio": asyncio}
    exec(use.replace("path/to/checkpoint", checkpoint), variables)
    completions = variables["completions"]
    assert len({c.text for c in completions}) == 4
    assert all(0 < c.tokens <= 24 for c in completions)
    # The example samples the same as the built-in engine.
    built_in = EnginePolicy(load_engine(EngineConfig(checkpoint, "transformers", dtype="float32")))
    sampling = Sampling(max_tokens=24, temperature=0.8, seed=0)
    assert asyncio.run(built_in.sample(variables["prompt"], sampling, range(4))) == completions
    built_in.close()
    policy = load_policy(PolicyConfig(checkpoint, "mol-llama", max_model_len=40))
    with pytest.raises(UsageError, match="too many for a context of 40"):
        sample_texts(policy, WARM, [0], variables["prompt"])
    with pytest.raises(UsageError, match="greedy"):
        sample_texts(policy, Sampling(8), [0, 1])
    sys.modules.pop("mol_llama_policy")


def test_names_an_external_object_that_is_no_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = (
        '[project]\nname = "odd"\nversion = "1"\n[project.entry-points."flex_judge.policies"]\nodd = "odd_one:make"\n'
    )
    install_package(tmp_path / "site", toml, "def make(config):\n    return config.model\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    with pytest.raises(UsageError, match="'odd': got a str, which lacks methods of a Policy"):
        load_policy(PolicyConfig("m", "odd"))
    sys.modules.pop("odd_one")
