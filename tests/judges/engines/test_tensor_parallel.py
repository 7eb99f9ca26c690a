"""One engine on several tensor-parallel ranks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from processes import check_all_lost, run_engine, start_requests, wait_for_end, wait_until_lost
from tiny_engines import generate
from tiny_models import tiny_llama

from flex_judge.judges import EngineConfig, UsageError
from flex_judge.judges.engines import Sampling, load_engine

TEXTS = ["What is seen in the image?", "The judge reads both answers", "2 + 3", "hello"]


@pytest.fixture(scope="module")
def four_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny Llama with 4 heads of 64 dimensions and 2 key-value heads, which 2 ranks can split."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tiny_llama(tmp_path_factory.mktemp("models") / "llama")
    config = LlamaConfig.from_pretrained(folder)
    config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_tensor_parallel_engine_matches_a_single_one_and_is_lost_when_a_rank_hangs(
    four_heads: Path,
) -> None:
    alone = load_engine(EngineConfig(str(four_heads), "transformers", dtype="float32", max_model_len=4096))
    expected = [g.token_ids for g in generate(alone, *((text, []) for text in TEXTS), sampling=Sampling(16))]
    alone.close()

    async def scenario() -> None:
        async with run_engine(four_heads, tensor_parallel=2, stall_s=2.0) as (engine, processes):
            assert len(processes) >= 3
            # By default, vllm in a Ray placement group would start its ranks through Ray, whose GPUs are taken.
            assert engine.engine_args["distributed_executor_backend"] == "mp"  # type: ignore[attr-defined]
            prompts = [engine.tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
            replies = await asyncio.gather(*(engine.generate(prompt, Sampling(16)) for prompt in prompts))
            assert [r.token_ids for r in replies] == expected
            tasks = await start_requests(engine)
            processes[-1].suspend()
            assert "has not answered for 2 s" in await wait_until_lost(engine)
            assert await check_all_lost(tasks)
            assert wait_for_end(*processes)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"engine": "vllm", "tensor_parallel": 2}, "set own_process"),
        ({"engine": "transformers", "tensor_parallel": 2}, "use engine vllm"),
        ({"tensor_parallel": 0}, "at least 1"),
        ({"stall_s": 0.0}, "stall_s must be above 0"),
    ],
)
def test_unsupported_settings_are_rejected_before_loading(config: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        load_engine(EngineConfig("nowhere", **config))  # type: ignore[arg-type]
