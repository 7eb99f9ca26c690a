"""One GRPO training of the study, with measurements of policy and judge while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.alignment.tasks.arithmetic import MAX_ANSWER_TOKENS, STOP, ArithmeticQuestion, is_correct_answer
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.trl import JudgeReward
from flex_judge.reward.types import RewardSpec, Sample

BATCH = 40
"""Number of questions that are answered at once in an evaluation."""
TRUTH = "truth"


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one training."""

    policy: str
    """Folder of the policy."""
    steps: int
    prompts_per_step: int
    generations: int
    """Number of completions of each prompt."""
    learning_rate: float
    seed: int
    evaluate_every: int
    """Number of steps between two evaluations."""


@dataclass(frozen=True)
class Canary:
    """Question with a right and a wrong answer. They are fixed, so their scores change only if the judge does."""

    question: ArithmeticQuestion
    right: str
    wrong: str

    @classmethod
    def from_question(cls, question: ArithmeticQuestion) -> Canary:
        """Write a right and a wrong answer to a question, in the same form."""
        return cls(question, f"The result is {question.answer}.", f"The result is {question.answer + 1}.")


class Evaluation:
    """Measurement of policy and judge on fixed questions.

    The judge sees no right answer. Scores are expected scores on the scale of the rubric.
    """

    def __init__(
        self, client: JudgeClient, spec: RewardSpec, questions: Sequence[ArithmeticQuestion], canaries: Sequence[Canary]
    ) -> None:
        """Describe an evaluation.

        Args:
            client: client of the judge service.
            spec: rubric of the judge.
            questions: held-out questions that the policy answers.
            canaries: fixed answers that the judge scores.
        """
        self._client, self._spec, self._questions, self._canaries = client, spec, questions, canaries

    def measure(self, answers: Sequence[str]) -> dict[str, Any]:
        """Measure the policy by its answers to the questions, and the judge by its scores of the canaries.

        Returns:
            A mapping with these keys:

            - `right`: whether each answer is right.
            - `scores`: the judge's score of each answer; None without a score.
            - `canaries`: scores of the right and the wrong answer of each canary.
        """
        pairs = [(question, answer) for question, answer in zip(self._questions, answers, strict=True)]
        fixed = [(canary.question, text) for canary in self._canaries for text in (canary.right, canary.wrong)]
        samples = [Sample(question.prompt, text) for question, text in (*pairs, *fixed)]
        values = [reward.value for reward in self._client.rewards_sync(samples, self._spec)]
        scores, canary_scores = values[: len(pairs)], values[len(pairs) :]
        return {
            "right": [is_correct_answer(answer, question.answer) for question, answer in pairs],
            "scores": scores,
            "canaries": [canary_scores[i : i + 2] for i in range(0, len(canary_scores), 2)],
        }

    @property
    def prompts(self) -> list[str]:
        """Texts of the questions."""
        return [str(question.prompt[0].content) for question in self._questions]


def train_policy(
    settings: TrainingSettings,
    questions: Sequence[ArithmeticQuestion],
    evaluation: Evaluation,
    url: str,
    rubric: str,
    out: Path,
    report: Callable[[int], object] = lambda _: None,
) -> dict[str, list[dict[str, Any]]]:
    """Train a policy with TRL's GRPOTrainer on rewards of a judge service.

    The truth is measured at every step by a reward function with the weight 0: it is logged, and teaches nothing.

    Args:
        settings: settings of the training.
        questions: questions to train on.
        evaluation: measurement that is made before training, every `evaluate_every` steps, and at the end.
        url: URL of the judge service.
        rubric: rubric of the rewards.
        out: folder of the trainer.
        report: called with the number of finished steps.

    Returns:
        `steps`, with the means of each step's completions, and `evaluations`, with the results of `Evaluation.measure`
        and the policy's greedy answers.

    Raises:
        ServiceUnavailableError: the judge service does not respond any more.
        UnscoredError: the judge scores nothing in several steps in a row.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    model = AutoModelForCausalLM.from_pretrained(settings.policy, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(settings.policy)
    # An answer is one line, so the policy's turn ends with a line break as well.
    line_break = tokenizer.encode(STOP[0], add_special_tokens=False)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *line_break]
    reward = JudgeReward(url, rubric=rubric, extra_rewards=[(_score_truth, 0.0)])
    evaluations: list[dict[str, Any]] = []

    class Measure(TrainerCallback):  # type: ignore[misc] # transformers has no types
        """Evaluates the policy while it is trained."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self._measure(0)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            report(state.global_step)
            if state.global_step % settings.evaluate_every == 0 or state.global_step == settings.steps:
                self._measure(state.global_step)

        def _measure(self, step: int) -> None:
            answers = _answer_greedily(trainer.model, tokenizer, evaluation.prompts)
            evaluations.append({"step": step, "answers": answers, **evaluation.measure(answers)})

    rows = [
        {
            "prompt": [{"role": "user", "content": str(question.prompt[0].content)}],
            "answer": str(question.answer),
        }
        for question in questions
    ]
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        reward_funcs=reward,
        callbacks=[Measure()],
        args=GRPOConfig(
            str(out),
            max_steps=settings.steps,
            learning_rate=settings.learning_rate,
            per_device_train_batch_size=settings.prompts_per_step * settings.generations,
            num_generations=settings.generations,
            max_completion_length=MAX_ANSWER_TOKENS,
            gradient_checkpointing=False,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            seed=settings.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.train()
    return {"steps": _collect_steps(trainer.state.log_history), "evaluations": evaluations}


def _score_truth(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """Return 1 for each right completion, else 0; a reward function of TRL."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(is_correct_answer(text, right)) for text, right in zip(texts, answer, strict=True)]


_score_truth.__name__ = TRUTH


def _answer_greedily(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Answer prompts with greedy decoding; answers end at the first line break."""
    import torch

    answers: list[str] = []
    was_training = model.training
    model.eval()
    for start in range(0, len(prompts), BATCH):
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + BATCH]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, padding_side="left", return_tensors="pt", return_dict=True
        ).to(model.device)
        with torch.no_grad():
            outputs = model.generate(**inputs, max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False)
        texts = tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers += [text.strip() for text in texts]
    model.train(was_training)
    return answers


def _collect_steps(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Collect the means of each step's completions from the trainer's log."""
    names = {
        "judge_score": "judge/score_mean",
        "truth": f"judge/extra_reward_{TRUTH}",
        "reward": "reward",
        "tokens": "completions/mean_length",
        "scored": "judge/scored",
        "judge_s": "judge/latency_s",
    }
    return [
        {"step": entry["step"], **{name: entry.get(key) for name, key in names.items()}}
        for entry in log
        if "reward" in entry
    ]
