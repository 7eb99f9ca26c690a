"""TRL's SFT trainer, which examines the judge that it trains: the guard against forgetting how to judge."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback
from trl import SFTTrainer

from flex_judge.alignment.judge_training.evaluation import (
    HeldOutComparison,
    JudgeMetrics,
    compute_metrics,
    make_evaluation_settings,
)
from flex_judge.alignment.judge_training.saving import save_judge
from flex_judge.alignment.training.weights import FamilyWeightsMixin
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.engines.hf.engine import HFEngine
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.models.checkpoints import Checkpoint

EVALUATION_MAX_LEN = 1 << 20
"""Tokens of a question of an evaluation with its reply; the model's own context is what counts."""
EVALUATION_BATCH = 16
"""Questions of an evaluation that are answered at the same time."""
COPY_FOLDER = "evaluation"
"""Name of the folder, within that of the judge, of a copy that is evaluated."""


@dataclass(frozen=True)
class HeldOutEvaluation:
    """What a judge in training is asked, and how long it may think."""

    questions: tuple[HeldOutComparison, ...]
    think_tokens: int
    reason_first: bool = True


class JudgeTrainer(FamilyWeightsMixin, SFTTrainer):  # type: ignore[misc]
    """Wherever transformers evaluates, the judge is evaluated too: the results are metrics (`eval_accuracy`, see
    `JudgeMetrics`) that choose the best checkpoint and end training early."""

    def __init__(
        self, *, base: str, checkpoint: Checkpoint, evaluation: HeldOutEvaluation | None, patience: int, **trl: Any
    ) -> None:
        """
        Args:
            base: the model that is tuned, by the name that it was loaded from.
            checkpoint: the same, opened.
            evaluation: None: there is none.
            patience: evaluations in a row without a better metric after which training ends; 0: never.
            trl: arguments of SFTTrainer.

        Raises:
            ValueError: what TRL refuses.
        """
        self.base, self.checkpoint, self.evaluation = base, checkpoint, evaluation
        callbacks = [EarlyStoppingCallback(patience)] if patience else []
        super().__init__(callbacks=callbacks, **trl)

    @property
    def is_adapter(self) -> bool:
        """Whether what learns is an adapter, and not the model itself."""
        return hasattr(self.model, "peft_config")

    def save_judge(self, out: Path) -> None:
        """Save the judge as it is now so that every engine opens it; in every process."""
        save_judge(self, self.checkpoint, out, whole=not self.is_adapter)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **more: Any) -> Any:
        """As transformers', with the judge's metrics added."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **more)
        if self.evaluation is not None:
            metrics = asdict(self.evaluate_judge())
            output.metrics.update({f"{metric_key_prefix}_{name}": v for name, v in metrics.items() if v is not None})
        return output

    def compute_final_metrics(self) -> JudgeMetrics:
        """Those of the judge that training ended with, which may be an earlier, better one. It is evaluated only
        where it has not been."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        step = int(best.rpartition("-")[2]) if best else self.state.global_step
        for entry in reversed(self.state.log_history):
            if entry["step"] == step and "eval_asked" in entry:
                return JudgeMetrics(**{f.name: entry.get(f"eval_{f.name}") for f in fields(JudgeMetrics)})
        return self.evaluate_judge()

    def evaluate_judge(self) -> JudgeMetrics:
        """The metrics of the judge as it is now, in every process.

        Every process asks its share of the questions. Where the weights are in pieces, a model computes only when all
        processes do, in step; so a copy is saved, as the judge itself will be, and the first process asks that.
        """
        from accelerate.utils import gather_object

        assert self.evaluation is not None
        asked, rank, ranks = self.evaluation.questions, self.accelerator.process_index, self.accelerator.num_processes
        judged = self._judge_with_copy(asked) if self.is_sharded else self._judge_with_model(asked[rank::ranks])
        found = {judgment.id: judgment for judgment in gather_object(judged)}
        return compute_metrics(asked, [found[question.comparison.id] for question in asked])

    def _judge_with_model(self, asked: Sequence[HeldOutComparison]) -> list[Judgment]:
        """By the model itself."""
        model = self.accelerator.unwrap_model(self.model)
        was_training, generation = model.training, model.generation_config
        # An engine seeds what it draws by; training goes on as without an evaluation.
        with torch.random.fork_rng(self._cuda_devices):
            engine = HFEngine(self._make_engine_config(self.base), model)
            try:
                with ThreadPoolExecutor(1) as other:
                    judgments = other.submit(self._judge_with_engine, engine, asked)
                    judgments.add_done_callback(lambda _: engine.close())
                    with self.accelerator.autocast():  # as it computes in training
                        engine.serve_requests()  # in the thread that trains: libgomp is slow when two threads have computed
                return judgments.result()
            finally:
                model.generation_config = generation
                model.train(was_training)

    def _judge_with_copy(self, asked: Sequence[HeldOutComparison]) -> list[Judgment]:
        """By a copy on the first process's device; by nobody in the others."""
        copy = Path(self.args.output_dir) / COPY_FOLDER
        self.save_judge(copy)
        if not self.accelerator.is_main_process:
            return []
        with self._unset_deepspeed_config(), torch.random.fork_rng(self._cuda_devices):
            config = (
                self._make_engine_config(self.base, str(copy))
                if self.is_adapter
                else self._make_engine_config(str(copy))
            )
            engine = HFEngine(config)
            try:
                return self._judge_with_engine(engine, asked)
            finally:
                engine.close()
                shutil.rmtree(copy)

    @contextmanager
    def _unset_deepspeed_config(self) -> Iterator[None]:
        """Have transformers load and ask a model as if there were no other processes: with ZeRO-3 it would spread what
        it loads over all of them, and generate in step with them."""
        from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

        plugin = self.accelerator.state.deepspeed_plugin
        unset_hf_deepspeed_config()
        try:
            yield
        finally:
            if plugin is not None:
                set_hf_deepspeed_config(plugin.hf_ds_config)

    @property
    def _cuda_devices(self) -> list[torch.device]:
        device = self.accelerator.device
        return [device] if device.type == "cuda" else []

    def _make_engine_config(self, model: str, adapter: str | None = None) -> EngineConfig:
        dtype = "bfloat16" if self.args.bf16 else "float32"
        return EngineConfig(
            model, "transformers", dtype, adapter=adapter, max_model_len=EVALUATION_MAX_LEN, max_batch=EVALUATION_BATCH
        )

    def _judge_with_engine(self, engine: HFEngine, asked: Sequence[HeldOutComparison]) -> list[Judgment]:
        assert self.evaluation is not None
        judge = FlexJudge(engine, make_evaluation_settings(self.evaluation.think_tokens, self.evaluation.reason_first))
        judgments = judge.judge([question.comparison for question in asked])
        for judgment in judgments:
            if judgment.status in (Status.OVERLONG, Status.ENGINE_LOST):
                why = judgment.votes[0].detail if judgment.votes else judgment.status
                raise UsageError(f"held-out judgment {judgment.id} cannot be asked: {why}")
        return judgments
