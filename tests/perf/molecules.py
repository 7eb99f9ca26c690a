"""Questions about molecules answered in one batch with a key-value cache, compared with one after the other.

Both sides send the same requests to the same engine with the same cache; only the concurrency differs. The default
model is a tiny one with random weights, whose answers always reach the maximum length.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import Engine, EngineConfig, Generation, Sampling
from flex_judge.judges.media.opening import make_molecule
from flex_judge.judges.protocol.rendering import RenderedPrompt, Renderer
from flex_judge.judges.protocol.sections import content_to_pieces
from flex_judge.judges.protocol.turns import Turn
from flex_judge.judges.types import Message
from flex_judge.judges.validation.classes import PositiveInt, settings_class

GOAL = 3.0
"""Minimum ratio of the time one after the other to the time in a batch."""
SMILES = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C[N+](C)(C)C[C@H](O)CC(=O)[O-]",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",
    "c1ccc2ccccc2c1",
    "O",
    "[Na+].[O-]C(=O)/C=C/c1ccccc1",
    "CCO",
    "NCCc1ccc(O)c(O)c1",
    "CN1CCC[C@H]1c1cccnc1",
    "Clc1ccc(cc1)C(c1ccc(Cl)cc1)C(Cl)(Cl)Cl",
    "C1CCCCC1",
    "CC1=C(C(CCC1)(C)C)/C=C/C(C)=C/CO",
    "NC(=O)c1cccnc1",
)
"""Molecules of various sizes, with salts, charges and stereo marks."""
QUESTION = "Is this molecule likely to pass a membrane by itself? Explain why, by its structure."


@settings_class
class MoleculesConfig:
    """Settings of the measurement."""

    model: str | None = setting(None, "Mol-LLaMA: folder or hub id (default: a tiny random one)", metavar="MODEL")
    molecules: Annotated[int, Ge(2)] = setting(16, "Number of molecules, with one question each", metavar="N")
    max_tokens: PositiveInt = setting(64, "Maximum length of an answer in tokens", metavar="N")
    repeats: PositiveInt = setting(3, "Number of runs of each side", metavar="N")


def run(config: MoleculesConfig) -> BenchResult:
    """Measure with the transformers engine."""
    with tempfile.TemporaryDirectory() as folder:
        if config.model is None:
            from flex_judge.judges.models.mol_llama.tiny import write_tiny_model

            write_tiny_model(Path(folder) / "tiny")
        model = config.model or str(Path(folder) / "tiny")
        engine = load_engine(
            EngineConfig(model, max_batch=config.molecules, dtype="float32" if not config.model else "auto")
        )
        try:
            return _measure(config, engine)
        finally:
            engine.close()


def _measure(config: MoleculesConfig, engine: Engine) -> BenchResult:
    renderer = Renderer(engine.tokenizer, engine.profile)
    prompts = [_render_prompt(renderer, SMILES[i % len(SMILES)]) for i in range(config.molecules)]
    sampling = Sampling(config.max_tokens)
    asyncio.run(_generate_answers(engine, prompts[:2], sampling, at_once=True))  # warm-up
    seconds: dict[bool, list[float]] = {True: [], False: []}
    tokens: dict[bool, int] = {}
    for _ in range(config.repeats):
        for at_once in (True, False):
            start = time.perf_counter()
            answers = asyncio.run(_generate_answers(engine, prompts, sampling, at_once))
            seconds[at_once].append(time.perf_counter() - start)
            tokens[at_once] = sum(len(answer.token_ids) for answer in answers)
    batched, sequential = statistics.median(seconds[True]), statistics.median(seconds[False])
    return BenchResult(
        "molecules",
        round(sequential / batched, 3),
        GOAL,
        sequential / batched >= GOAL,
        {
            "model": engine.model_id if config.model else "tiny, random weights",
            "molecules": config.molecules,
            "most_tokens_of_an_answer": config.max_tokens,
            "tokens_in_a_batch": tokens[True],
            "tokens_one_after_the_other": tokens[False],
            "answers_per_second": round(config.molecules / batched, 2),
            "seconds": [
                {"in_a_batch": round(batched_s, 3), "one_after_the_other": round(sequential_s, 3)}
                for batched_s, sequential_s in zip(seconds[True], seconds[False], strict=True)
            ],
        },
    )


def _render_prompt(renderer: Renderer, smiles: str) -> RenderedPrompt:
    message = Message("user", (make_molecule(smiles), f" {QUESTION}"))
    return renderer.render([Turn(message.role, content_to_pieces(message.content))])


async def _generate_answers(
    engine: Engine, prompts: Sequence[RenderedPrompt], sampling: Sampling, at_once: bool
) -> list[Generation]:
    requests = (engine.generate(prompt.token_ids, sampling, prompt.media) for prompt in prompts)
    return list(await asyncio.gather(*requests)) if at_once else [await request for request in requests]
