"""TRL's SFT trainer, which examines the judge that it trains: the guard against forgetting how to judge."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from transformers import EarlyStoppingCallback
from trl import SFTTrainer

from alignment.sft.exam import Grades, Question, grade, settings
from alignment.training.weights import FamilyWeights
from judges import FlexJudge, Judgment, Status
from judges.engines import EngineConfig
from judges.engines.hf import HFEngine
from judges.errors import UsageError

LONGEST = 1 << 20
"""Tokens of a question of an exam with its reply; the model's own context is what counts."""
BATCH = 16
"""Questions of an exam that are answered at the same time."""


@dataclass(frozen=True)
class Exam:
    """What a judge in training is asked, and how long it may think."""

    questions: tuple[Question, ...]
    think_tokens: int
    reason_first: bool = True


class JudgeTrainer(FamilyWeights, SFTTrainer):  # type: ignore[misc]
    """Wherever transformers evaluates, the judge sits its exam too: its grades are metrics (`eval_accuracy`, see
    `Grades`) that choose the best checkpoint and end training early."""

    def __init__(self, *, base: str, exam: Exam | None, patience: int, **trl: Any) -> None:
        """
        Args:
            base: the model that is tuned, by the name that it was loaded from.
            exam: None: there is none.
            patience: exams in a row without a better grade after which training ends; 0: never.
            trl: arguments of SFTTrainer.

        Raises:
            UsageError: the exam cannot be held as the model is trained.
            ValueError: what TRL refuses.
        """
        self.base, self.exam = base, exam
        callbacks = [EarlyStoppingCallback(patience)] if patience else []
        super().__init__(callbacks=callbacks, **trl)
        if exam is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UsageError(
                "a model whose weights are spread over processes (FSDP, DeepSpeed) cannot be examined while it is "
                "trained: add --eval_strategy no --held_out_rows 0, and judge held-out comparisons afterwards"
            )

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **more: Any) -> Any:
        """As transformers', with the exam's grades among its metrics."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **more)
        if self.exam is not None:
            grades = asdict(self.examined())
            output.metrics.update({f"{metric_key_prefix}_{name}": v for name, v in grades.items() if v is not None})
        return output

    def grades(self) -> Grades:
        """Those of the judge that training ended with, which may be an earlier one that was better. It is examined only
        where it has not been."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        step = int(best.rpartition("-")[2]) if best else self.state.global_step
        for entry in reversed(self.state.log_history):
            if entry["step"] == step and "eval_asked" in entry:
                return Grades(**{f.name: entry.get(f"eval_{f.name}") for f in fields(Grades)})
        return self.examined()

    def examined(self) -> Grades:
        """The grades of the judge as it is now. Every process asks its share of the questions."""
        from accelerate.utils import gather_object

        assert self.exam is not None
        asked, rank, ranks = self.exam.questions, self.accelerator.process_index, self.accelerator.num_processes
        found = {judgment.id: judgment for judgment in gather_object(self._judged(asked[rank::ranks]))}
        return grade(asked, [found[question.comparison.id] for question in asked])

    def _judged(self, asked: Sequence[Question]) -> list[Judgment]:
        assert self.exam is not None
        model = self.accelerator.unwrap_model(self.model)
        was_training, generation = model.training, model.generation_config
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # an engine seeds what it draws by; training goes on as without an exam
            config = EngineConfig(self.base, "transformers", max_model_len=LONGEST, max_batch=BATCH)
            engine = HFEngine(config, model)
            judge = FlexJudge(engine, settings(self.exam.think_tokens, self.exam.reason_first))
            try:
                with ThreadPoolExecutor(1) as other:
                    judgments = other.submit(judge.judge, [question.comparison for question in asked])
                    judgments.add_done_callback(lambda _: engine.close())
                    with self.accelerator.autocast():  # as it computes in training
                        engine.compute()  # in the thread that trains: libgomp is slow when two threads have computed
                for judgment in judgments.result():
                    if judgment.status in (Status.OVERLONG, Status.ENGINE_LOST):
                        why = judgment.votes[0].detail if judgment.votes else judgment.status
                        raise UsageError(f"held-out judgment {judgment.id} cannot be asked: {why}")
                return judgments.result()
            finally:
                model.generation_config = generation
                model.train(was_training)
