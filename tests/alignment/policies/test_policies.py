"""Policies: samples that are drawn as asked, reproducibly, from any of our engines or from an outside package."""

from __future__ import annotations

import asyncio
import importlib
import pickle
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
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

DOCUMENT = DOCS / "policies.md"
PROMPT = (Message("user", "Name a colour."),)
WARM = Sampling(16, 0.8, top_p=0.9)


def by_script(script: Callable[[str, Sampling], Any], **options: Any) -> EnginePolicy:
    return EnginePolicy(ScriptedEngine(script, **options))


def echo_seed(prompt: str, sampling: Sampling) -> str:
    return f" {sampling.seed} "


def texts(
    policy: Policy, sampling: Sampling, sample_indices: Sequence[int], prompt: Sequence[Message] = PROMPT
) -> list[str]:
    return [c.text for c in asyncio.run(policy.sample(prompt, sampling, sample_indices))]


# Over an engine


def test_completions_come_in_the_order_of_their_draws() -> None:
    async def last_first(prompt: str, sampling: Sampling) -> str:
        await asyncio.sleep(0.02 / (1 + sampling.sample_index))
        return f"draw {sampling.sample_index}"

    policy = by_script(last_first)
    assert isinstance(policy, Policy)
    assert texts(policy, WARM, [4, 0, 2]) == ["draw 4", "draw 0", "draw 2"]
    assert policy.model_id == "scripted"


def test_a_completion_ends_before_the_stop_string_and_says_whether_it_was_cut() -> None:
    replies = {"stop": " red\nor blue", "eos": " red ", "length": "a very long story"}
    for reason, reply in replies.items():
        policy = by_script(lambda *_, reply=reply: reply)
        (c,) = asyncio.run(policy.sample(PROMPT, Sampling(8, 1.0, stop=("\n",)), [0]))
        assert c.cut == (reason == "length")
        assert c.text == ("a very l" if c.cut else "red")
        assert c.tokens == {"stop": 5, "eos": 5, "length": 8}[reason]


def test_without_a_seed_the_engine_draws_as_it_likes_and_a_ledger_tells_the_draws_apart() -> None:
    policy = by_script(echo_seed)
    assert texts(policy, WARM, range(3)) == ["None"] * 3
    assert [sampling.sample_index for _, sampling in policy.engine.requests] == [0, 1, 2]  # type: ignore[attr-defined]


def test_with_a_seed_every_draw_has_its_own_and_keeps_it() -> None:
    seeded = replace(WARM, seed=3)
    policy = by_script(echo_seed)
    eight = texts(policy, seeded, range(8))
    assert len(set(eight)) == 8
    assert texts(policy, seeded, [5, 2]) == [eight[5], eight[2]]
    others = [
        texts(policy, replace(seeded, seed=4), range(8)),
        texts(policy, replace(seeded, temperature=0.4), range(8)),
        texts(policy, seeded, range(8), [Message("user", "Name another.")]),
        texts(policy, seeded, range(8), [Message("system", "Name a colour.")]),
    ]
    assert len({seed for row in (eight, *others) for seed in row}) == 40
    assert texts(policy, replace(seeded, temperature=1), [0]) == texts(policy, replace(seeded, temperature=1.0), [0])


def test_seeds_stay_the_same_from_one_version_to_the_next() -> None:
    # A run that is resumed after an update would hold samples of both.
    assert texts(by_script(echo_seed), replace(WARM, seed=3), [0, 1]) == ["1864120294", "652686630"]


@pytest.mark.parametrize("sample_indices", [[0, 1], [3]])
def test_it_never_samples_greedily_in_silence(sample_indices: list[int]) -> None:
    policy = by_script(echo_seed)
    with pytest.raises(UsageError, match="greedy samples of a prompt are all the same"):
        texts(policy, Sampling(8), sample_indices)
    assert len(texts(policy, Sampling(8), [0])) == 1


def test_a_prompt_that_leaves_no_room_is_refused_with_its_length() -> None:
    policy = by_script(echo_seed, max_model_len=100)
    with pytest.raises(UsageError, match=r"the prompt has \d+ tokens; with 16 .* more than the policy's 100"):
        texts(policy, WARM, [0], [Message("user", "long " * 20)])


def test_a_chat_that_the_template_refuses_is_the_prompts_fault() -> None:
    with pytest.raises(UsageError, match="cannot be shown to scripted"):
        texts(by_script(echo_seed), WARM, [0], [Message("<|im_end|>", "Hello?")])


def test_media_that_the_model_does_not_take_are_refused() -> None:
    with pytest.raises(MediaError, match="takes no audio"):
        texts(by_script(echo_seed), WARM, [0], [Message("user", (make_audio([0.0] * 99, rate=16000),))])


def test_control_tokens_in_a_prompt_stay_text() -> None:
    policy = by_script(echo_seed)
    texts(policy, WARM, [0], [Message("user", "<|im_end|>")])
    ((ids, _),) = policy.engine.given  # type: ignore[attr-defined]
    end = policy.engine.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 1  # the template's own


def test_a_lost_engine_is_one_error_and_gives_up_the_other_draws() -> None:
    given_up = []

    async def script(prompt: str, sampling: Sampling) -> str:
        if sampling.sample_index == 2:
            raise EngineLostError("gone")
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            given_up.append(sampling.sample_index)
            raise
        return ""

    with pytest.raises(EngineLostError, match="gone"):
        texts(by_script(script), WARM, range(4))
    assert sorted(given_up) in ([0, 1], [0, 1, 3])  # the last one may not have begun


def test_a_request_that_the_engine_drops_does_not_look_like_a_caller_who_left() -> None:
    async def script(prompt: str, sampling: Sampling) -> str:
        raise asyncio.CancelledError

    with pytest.raises(EngineLostError, match="dropped"):
        texts(by_script(script), WARM, [0])


def test_closing_it_closes_its_engine() -> None:
    policy = by_script(echo_seed)
    asyncio.run(policy.check_health())
    policy.close()
    with pytest.raises(EngineLostError):
        asyncio.run(policy.check_health())


def test_a_ledger_answers_the_same_seeds_and_no_others(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger")
    config = PolicyConfig("scripts:policy", "scripted", ledger=path)
    policy = load_policy(config)
    first = texts(policy, replace(WARM, seed=1), range(4))  # the script counts its calls, so each is another one
    unseeded = texts(policy, WARM, range(4))
    policy.close()
    replay = load_policy(PolicyConfig(path, "replay"))
    assert texts(replay, replace(WARM, seed=1), range(4)) == first
    assert texts(replay, WARM, range(4)) == unseeded
    replay.close()
    again = load_policy(config)
    other = texts(again, replace(WARM, seed=2), range(4))
    assert again.engine.misses == 4  # type: ignore[attr-defined]
    assert len(other) == 4
    again.close()


# Which policy


def test_the_configuration_travels_and_makes_the_policy_elsewhere() -> None:
    config = PolicyConfig("scripts:judge", "scripted", max_batch=3, media=MediaLimits(video_fps=1.0), options={})
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    policy = load_policy(again)
    assert isinstance(policy, EnginePolicy)
    assert policy.model_id == "scripts:judge"


def test_an_unknown_policy_lists_what_there_is() -> None:
    with pytest.raises(EngineUnavailableError, match=r"'vlm' does not exist; there are auto, .*vllm.*, openai"):
        check_policy(PolicyConfig("m", "vlm"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"engine": "openai"}, "needs a url"),
     ({"url": "http://h", "adapter": "a"}, "adapter an endpoint's policy takes none"),
     ({"url": "http://h", "ledger": "l"}, "ledger an endpoint's policy takes none"),
     ({"url": "ftp://h"}, "url: expected"),
     ({"url": "http://h", "api_key": "env:NOT_SET_AT_ALL"}, "NOT_SET_AT_ALL is not set"),
     ({"engine": "scripted", "url": "http://h"}, "url is for engine openai"),
     ({"engine": "transformers", "options": {"top_k": 1}}, "options is for engine openai")],
)  # fmt: skip
def test_settings_that_do_not_belong_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_policy(PolicyConfig("m", **settings))


def test_a_model_that_cannot_be_had_is_found_out_before_anything_is_loaded() -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        check_policy(PolicyConfig("no-such-model", "transformers"))


# The transformers engine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyEngines]:
    engines = TinyEngines(tmp_path_factory.mktemp("tiny"))
    yield engines
    engines.close()


def test_rows_are_drawn_from_the_distribution_that_was_asked_for() -> None:
    import torch

    from flex_judge.judges.engines.hf.engine import RowSampler

    rows = 4000
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]]).repeat(rows, 1)
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (2, 0.8)):
        sampler = RowSampler(temperature, top_p, list(range(rows)), "cpu")
        drawn = Counter(sampler(torch.zeros(rows, 1), scores).argmax(-1).tolist())
        wanted = torch.softmax(scores[0] / temperature, -1)
        if top_p < 1:  # 0.455, 0.276, 0.167, 0.102: the last one is above the 0.8
            wanted = wanted * torch.tensor([1, 1, 1, 0, 0])
            wanted = wanted / wanted.sum()
        for token, p in enumerate(wanted.tolist()):
            assert abs(drawn[token] / rows - p) < 4 * (p * (1 - p) / rows) ** 0.5 + 1e-9


def test_a_seeded_row_is_the_same_whatever_is_in_its_batch(tiny: TinyEngines) -> None:
    policy = EnginePolicy(tiny("llama"))
    seeded = Sampling(12, 1.0, top_p=0.95, seed=11)

    async def in_company() -> tuple[list[Any], ...]:
        others = [Message("user", f"What is seen in image {k}? " * k) for k in range(1, 4)]
        work = [policy.sample([other], sampling, [0]) for other in others for sampling in (seeded, Sampling(12, 1.0))]
        return tuple(await asyncio.gather(policy.sample(PROMPT, seeded, [2, 0]), *work))

    alone = texts(policy, seeded, range(4))
    assert len(set(alone)) == 4
    assert [c.text for c in asyncio.run(in_company())[0]] == [alone[2], alone[0]]
    assert texts(policy, Sampling(12, 1.0), [0]) != texts(policy, Sampling(12, 1.0), [0])  # unseeded, it goes on


def test_prompts_with_images_are_sampled(tiny: TinyEngines) -> None:
    policy = EnginePolicy(tiny("vl"), MediaLimits(image_max_pixels=56 * 56))
    prompts = [
        Comparison.of("What is it?", "", images=[Image.new("RGB", (300, 200), colour)]).prompt
        for colour in ("red", "blue")
    ]
    seeded = Sampling(8, 1.0, seed=0)
    red, blue = (texts(policy, seeded, range(3), prompt) for prompt in prompts)
    assert len({*red, *blue}) > 3
    assert texts(policy, seeded, range(3), prompts[0]) == red
    with pytest.raises(UsageError, match="more than the policy's"):
        texts(EnginePolicy(tiny("vl")), Sampling(4000, 1.0), [0], prompts[0])


# Outside packages


def python_of(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", document, re.DOTALL)


def installed(folder: Path, toml: str, module: str) -> None:
    """What pip makes of a package: its module, and its entry points beside it."""
    project = tomllib.loads(toml)["project"]
    folder.mkdir()
    (name,) = {value.partition(":")[0] for value in project["entry-points"]["flex_judge.policies"].values()}
    (folder / f"{name}.py").write_text(module)
    about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{k} = {v}" for k, v in project["entry-points"]["flex_judge.policies"].items()]
    (about / "entry_points.txt").write_text("\n".join(["[flex_judge.policies]", *lines, ""]))


def test_the_documents_example_is_a_policy_when_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = DOCUMENT.read_text()
    configurations, module, use = python_of(document)
    exec(configurations, {})
    (toml,) = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)
    installed(tmp_path / "site", toml, module)
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    assert list_policy_names()[-1] == "mol-llama"
    checkpoint = str(tiny_llama(tmp_path / "llama"))
    variables: dict[str, Any] = {"asyncio": asyncio}
    exec(use.replace("path/to/checkpoint", checkpoint), variables)
    completions = variables["completions"]
    assert len({c.text for c in completions}) == 4
    assert all(0 < c.tokens <= 24 for c in completions)
    # It draws what our own engine draws.
    ours = EnginePolicy(load_engine(EngineConfig(checkpoint, "transformers", dtype="float32")))
    sampling = Sampling(max_tokens=24, temperature=0.8, seed=0)
    assert asyncio.run(ours.sample(variables["prompt"], sampling, range(4))) == completions
    ours.close()
    policy = load_policy(PolicyConfig(checkpoint, "mol-llama", max_model_len=40))
    with pytest.raises(UsageError, match="too many for a context of 40"):
        texts(policy, WARM, [0], variables["prompt"])
    with pytest.raises(UsageError, match="greedy"):
        texts(policy, Sampling(8), [0, 1])
    sys.modules.pop("mol_llama_policy")


def test_an_outside_policy_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = (
        '[project]\nname = "odd"\nversion = "1"\n[project.entry-points."flex_judge.policies"]\nodd = "odd_one:make"\n'
    )
    installed(tmp_path / "site", toml, "def make(config):\n    return config.model\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    with pytest.raises(UsageError, match="'odd': made a str, which lacks methods of a Policy"):
        load_policy(PolicyConfig("m", "odd"))
    sys.modules.pop("odd_one")
