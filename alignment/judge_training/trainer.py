"""TRL's SFT trainer with an evaluation of the judge that it trains, which detects a loss of judging ability."""

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
"""Maximum length of prompt and reply in tokens; high enough that the model's own context length is the limit."""
EVALUATION_BATCH = 16
"""Number of comparisons that are judged at the same time."""
COPY_FOLDER = "evaluation"
"""Folder inside the output folder for the copy of the judge that is evaluated."""


@dataclass(frozen=True)
class HeldOutEvaluation:
    """Held-out comparisons for the judge in training, and its thinking budget."""

    comparisons: tuple[HeldOutComparison, ...]
    think_tokens: int
    reason_first: bool = True


class JudgeTrainer(FamilyWeightsMixin, SFTTrainer):  # type: ignore[misc]
    """SFT trainer that evaluates the judge whenever transformers evaluates.

    The results are metrics such as `eval_accuracy` (see `JudgeMetrics`), so they can select the best checkpoint and
    stop training early.
    """

    def __init__(
        self, *, base: str, checkpoint: Checkpoint, evaluation: HeldOutEvaluation | None, patience: int, **trl: Any
    ) -> None:
        """Create a trainer.

        Args:
            base: Name of the base model, as given by the user.
            checkpoint: Opened checkpoint of the base model.
            evaluation: Held-out comparisons; None for no evaluation.
            patience: Number of evaluations in a row without a better metric that end training; 0 for no early stopping.
            **trl: Arguments of SFTTrainer.

        Raises:
            ValueError: TRL rejects an argument.
        """
        self.base, self.checkpoint, self.evaluation = base, checkpoint, evaluation
        callbacks = [EarlyStoppingCallback(patience)] if patience else []
        super().__init__(callbacks=callbacks, **trl)

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter is trained instead of the model itself."""
        return hasattr(self.model, "peft_config")

    def save_judge(self, out: Path) -> None:
        """Save the current judge in the form that every engine loads. Call it in every process."""
        save_judge(self, self.checkpoint, out, is_full_model=not self.is_adapter)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Run the evaluation of transformers and add the metrics of the judge."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.evaluation is not None:
            metrics = asdict(self.evaluate_judge())
            output.metrics.update({f"{metric_key_prefix}_{name}": v for name, v in metrics.items() if v is not None})
        return output

    def compute_final_metrics(self) -> JudgeMetrics:
        """Compute the metrics of the judge that training ended with, which may be an earlier, better checkpoint.

        Metrics in the log are reused; the judge is evaluated only if its step has no logged metrics.
        """
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        step = int(best.rpartition("-")[2]) if best else self.state.global_step
        # The last entry counts, because a resumed run may have logged a step twice.
        for entry in reversed(self.state.log_history):
            if entry["step"] == step and "eval_asked" in entry:
                return JudgeMetrics(**{f.name: entry.get(f"eval_{f.name}") for f in fields(JudgeMetrics)})
        return self.evaluate_judge()

    def evaluate_judge(self) -> JudgeMetrics:
        """Compute the metrics of the current judge. Call it in every process.

        Every process judges its share of the comparisons. Sharded weights cannot generate independently, because all
        processes have to compute in step. In that case a copy is saved like the final judge, and the first process
        evaluates the copy.
        """
        from accelerate.utils import gather_object

        assert self.evaluation is not None
        comparisons = self.evaluation.comparisons
        if self.is_sharded:
            judgments = self._judge_with_copy(comparisons)
        else:
            share = comparisons[self.accelerator.process_index :: self.accelerator.num_processes]
            judgments = self._judge_with_model(share)
        by_id = {judgment.id: judgment for judgment in gather_object(judgments)}
        return compute_metrics(comparisons, [by_id[item.comparison.id] for item in comparisons])

    def _judge_with_model(self, comparisons: Sequence[HeldOutComparison]) -> list[Judgment]:
        """Judge comparisons with the model in training."""
        model = self.accelerator.unwrap_model(self.model)
        was_training, generation_config = model.training, model.generation_config
        # The engine sets the random seed of its samples. The fork keeps training independent of the evaluation.
        with torch.random.fork_rng(self._cuda_devices):
            engine = HFEngine(self._make_engine_config(self.base), model)
            try:
                with ThreadPoolExecutor(1) as executor:
                    judgments = executor.submit(self._judge_with_engine, engine, comparisons)
                    judgments.add_done_callback(lambda _: engine.close())
                    with self.accelerator.autocast():  # the precision of training
                        # The model must compute in the training thread: libgomp becomes slow once two threads of a
                        # process have computed. `serve_requests` returns when the engine is closed.
                        engine.serve_requests()
                return judgments.result()
            finally:
                # The engine has replaced the generation settings and switched the model to evaluation mode.
                model.generation_config = generation_config
                model.train(was_training)

    def _judge_with_copy(self, comparisons: Sequence[HeldOutComparison]) -> list[Judgment]:
        """Judge comparisons with a saved copy on the first process's device; other processes return no judgments."""
        copy = Path(self.args.output_dir) / COPY_FOLDER
        self.save_judge(copy)
        if not self.accelerator.is_main_process:
            return []
        with self._unset_deepspeed_config(), torch.random.fork_rng(self._cuda_devices):
            if self.is_adapter:
                config = self._make_engine_config(self.base, str(copy))
            else:
                config = self._make_engine_config(str(copy))
            engine = HFEngine(config)
            try:
                return self._judge_with_engine(engine, comparisons)
            finally:
                engine.close()
                shutil.rmtree(copy)

    @contextmanager
    def _unset_deepspeed_config(self) -> Iterator[None]:
        """Hide the DeepSpeed configuration from transformers.

        With ZeRO-3, transformers would otherwise shard the copy over all processes and generate in step with them,
        while the other processes wait.
        """
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
        return EngineConfig(
            model,
            "transformers",
            "bfloat16" if self.args.bf16 else "float32",
            adapter=adapter,
            max_model_len=EVALUATION_MAX_LEN,
            max_batch=EVALUATION_BATCH,
        )

    def _judge_with_engine(self, engine: HFEngine, comparisons: Sequence[HeldOutComparison]) -> list[Judgment]:
        assert self.evaluation is not None
        settings = make_evaluation_settings(self.evaluation.think_tokens, self.evaluation.reason_first)
        judgments = FlexJudge(engine, settings).judge([item.comparison for item in comparisons])
        for judgment in judgments:
            if judgment.status in (Status.OVERLONG, Status.ENGINE_LOST, Status.INVALID_INPUT, Status.FAILED):
                problem = judgment.votes[0].detail if judgment.votes else judgment.status
                raise UsageError(f"held-out judgment {judgment.id}: cannot be evaluated: {problem}")
        return judgments
