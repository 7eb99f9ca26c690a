"""The settings that runs over data sets share: prompts in, a policy that answers, a judge, where they run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.prompts import PromptColumns
from flex_judge.alignment.data.sources import FirstRows, Source, open_source
from flex_judge.alignment.pipeline.models import RemoteJudge
from flex_judge.alignment.policies.config import PolicyConfig, check_policy
from flex_judge.alignment.tasks import arithmetic
from flex_judge.experiments.common.flags import format_flag, setting
from flex_judge.experiments.common.judge_config import JUDGING, MODEL, JudgeFlags
from flex_judge.judges.engines import resolve_engine
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models import check_model, identify_model
from flex_judge.judges.models.embedded import BASE
from flex_judge.judges.rubrics import list_rubrics, load_rubric
from flex_judge.judges.validation.classes import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, settings_class
from flex_judge.judges.validation.flat import flatten_settings, flatten_values
from flex_judge.reward.serving.cluster import check_address

_DATA, _POLICY, _RUN = "prompts", "policy", "placement and retries"
"""Headings of the help."""
SHARED = ("seed", "max_model_len", "max_batch")
"""Settings of a judge that are the policy's as well."""
SAMPLES = 8
TASK_PROMPTS = 200
TOKENS = 512
"""Longest answer to a prompt that is not of the embedded task."""


def out_setting(default: str) -> Any:
    """The setting where a command's results go."""
    return setting(default, "Output folder; a run that is there is resumed", metavar="DIR", group="results")


def check_service_rubric(rubric: str) -> None:
    """Raise UsageError for a rubric that a judge service does not have by itself."""
    if rubric not in list_rubrics():
        raise UsageError(f"--rubric must be one of {', '.join(list_rubrics())} where a service judges")


@settings_class(kw_only=True)
class DataFlags(JudgeFlags):
    """Settings of a run over prompts."""

    out: str = out_setting("runs/data")
    prompts: PositiveInt | None = setting(
        None, f"Take the first N prompts (default: all; embedded task: {TASK_PROMPTS})", metavar="N", group=_DATA
    )
    column: tuple[str, ...] = setting(
        (), "Column mapping of the data set: prompt=, id= or images=; may be repeated", metavar="F=COL", group=_DATA
    )
    system: str | None = setting(None, "System message before every prompt", metavar="TEXT", group=_DATA)
    keep: tuple[str, ...] = setting((), "Column to copy into the results; may be repeated", metavar="COL", group=_DATA)
    answer: str | None = setting(
        None, "Column with the number that is the right answer, for accuracies", metavar="COL", group=_DATA
    )
    policy: str = setting(
        BASE,
        "Policy model: embedded name, folder, hub id or an endpoint's name",
        metavar="MODEL",
        group=_POLICY,
    )
    policy_engine: str = setting(
        "auto",
        "Engine of the policy: vllm, transformers, openai, or an installed package's",
        metavar="NAME",
        group=_POLICY,
    )
    policy_adapter: str | None = setting(
        None, "LoRA adapter on the policy: folder or hub id", metavar="MODEL", group=_POLICY
    )
    policy_url: str | None = setting(
        None,
        "OpenAI-compatible endpoint of the policy, instead of a local model",
        metavar="URL",
        group=_POLICY,
    )
    policy_key: str | None = setting(None, "Key of the policy's endpoint", metavar="env:NAME|FILE", group=_POLICY)
    samples: PositiveInt | None = setting(
        None, f"Number of answers sampled per prompt (default: {SAMPLES})", metavar="N", group=_POLICY
    )
    sample_temperature: NonNegativeFloat = setting(
        0.8, "Sampling temperature of the policy", metavar="T", group=_POLICY
    )
    sample_top_p: Fraction = setting(
        0.95, "Nucleus sampling of the policy: probability mass to sample from", metavar="P", group=_POLICY
    )
    sample_tokens: PositiveInt | None = setting(
        None,
        f"Maximum answer length in tokens (default: {TOKENS}; embedded task: {arithmetic.MAX_ANSWER_TOKENS})",
        metavar="N",
        group=_POLICY,
    )
    sample_stop: tuple[str, ...] = setting((), "Text that ends an answer; may be repeated", metavar="T", group=_POLICY)
    rubric: str | None = setting(
        None,
        "Rubric: a preset or a TOML file (default: general; embedded task: correctness)",
        metavar="NAME",
        group=JUDGING,
    )
    judge_url: str | None = setting(
        None,
        "Judge service to use (flex-judge serve) instead of starting one",
        metavar="URL",
        group=MODEL,
    )
    judge_key: str | None = setting(None, "Key of the judge service", metavar="env:NAME|FILE", group=MODEL)
    replicas: PositiveInt = setting(1, "Number of judge replicas", metavar="N", group=_RUN)
    policy_replicas: PositiveInt = setting(1, "Number of policy replicas", metavar="N", group=_RUN)
    address: str | None = setting(
        None,
        "Join the Ray cluster at this host:port, or auto, instead of starting one",
        metavar="HOST:PORT",
        group=_RUN,
    )
    retry_rejected: bool = setting(
        False,
        "Retry prompts that an earlier run rejected, with the others of their shards",
        group=_RUN,
    )
    max_failures: NonNegativeInt = setting(
        0, "Number of prompts without a result above which the exit status is 1", metavar="N", group=_RUN
    )

    def __post_init__(self) -> None:
        if self.sample_temperature == 0 and self.num_answers > 1:
            raise UsageError("--sample-temperature must be above 0: greedy samples of a prompt are all the same")
        if self.rubric is not None:
            load_rubric(self.rubric)
        _ = self.build_columns(None)
        self._check_service()

    def _check_service(self) -> None:
        if self.judge_url is None:
            if self.judge_key is not None:
                raise UsageError("--judge-key goes with --judge-url")
            return
        values = flatten_values(self)
        for name, known in flatten_settings(JudgeFlags).items():
            if name not in SHARED and values[name] != known.default:
                raise UsageError(f"{format_flag(name)} is for the service at --judge-url to say, see flex-judge serve")
        if self.rubric is not None:
            check_service_rubric(self.rubric)

    def open_prompts(self, file: str | None) -> Source:
        """The prompts: those of a file or data set, or the embedded task's.

        Raises:
            UsageError: there are none, or a flag says something of columns where there are none.
        """
        if file is None:
            for name in ("column", "keep", "answer"):
                if getattr(self, name):
                    raise UsageError(f"--{name} is about the columns of a FILE, and none is given")
            questions = arithmetic.ArithmeticSource(self.prompts or TASK_PROMPTS, self.judge.engine.seed)
            next(questions.read_range(0, 1))  # of which there are only so many
            return questions
        source = open_source(file)
        return source if self.prompts is None else FirstRows(source, self.prompts)

    @property
    def num_answers(self) -> int:
        """Answers to each prompt."""
        return SAMPLES if self.samples is None else self.samples

    def get_answer_column(self, file: str | None) -> str | None:
        """The column with the right answer."""
        return "answer" if file is None else self.answer

    def build_columns(self, file: str | None) -> PromptColumns:
        return PromptColumns.from_arguments(self.column, self.keep, self.get_answer_column(file), self.system)

    def build_sampling(self, file: str | None) -> Sampling:
        """How the policy samples. The embedded task's answers are one line."""
        stop = self.sample_stop or (arithmetic.STOP if file is None else ())
        tokens = self.sample_tokens or (arithmetic.MAX_ANSWER_TOKENS if file is None else TOKENS)
        return Sampling(tokens, self.sample_temperature, self.sample_top_p, tuple(stop), seed=self.judge.engine.seed)

    def resolve_rubric(self, file: str | None) -> str:
        """The rubric's name; of a file its whole path, as replicas have working directories of their own."""
        name = self.rubric or ("correctness" if file is None else "general")
        return str(Path(name).resolve()) if name not in list_rubrics() else name

    @property
    def policy_config(self) -> PolicyConfig:
        """The policy.

        Raises:
            UsageError: it cannot be had.
        """
        engine = self.judge.engine
        config = PolicyConfig(
            self.policy,
            self.policy_engine if self.policy_url or self.policy_engine != "auto" else engine.engine,
            adapter=self.policy_adapter,
            max_model_len=engine.max_model_len,
            max_batch=engine.max_batch,
            seed=engine.seed,
            url=self.policy_url,
            api_key=self.policy_key,
        )
        check_policy(config)
        return config

    def check_models(self) -> None:
        """Look at what can be looked at before anything is started. Loads no model and, adapters apart, downloads none.

        Raises:
            UsageError: judge or policy cannot be had, or nothing answers at the cluster's address.
            ServiceUnavailableError: nothing answers at the judge's.
        """
        _ = self.policy_config
        if self.address:
            check_address(self.address)
        if self.external_judge is not None:
            self.external_judge.client.health_sync()
        elif resolve_engine(self.judge.engine.engine) != "scripted":
            check_model(self.judge.engine.model, self.judge.engine.adapter)

    @property
    def external_judge(self) -> RemoteJudge | None:
        """The service that judges; None where this run starts one of its own."""
        return (
            None if self.judge_url is None else RemoteJudge(self.judge_url, self.judge.engine.max_batch, self.judge_key)
        )

    def build_identity(self, source: Source, file: str | None) -> dict[str, object]:
        """What determines the results; a run folder holds one such."""
        sampling, engine = self.build_sampling(file), self.judge.engine
        return {
            "source": source.name,
            "source_digest": source.digest,
            "columns": repr(self.build_columns(file)),
            "policy": identify_model(self.policy),
            "policy_engine": self.policy_engine,
            "policy_adapter": identify_model(self.policy_adapter),
            "policy_url": self.policy_url,
            "samples": self.num_answers,
            "sampling": repr(replace(sampling, seed=None)),
            "judge": identify_model(engine.model) if self.judge_url is None else self.judge_url,
            "judge_adapter": identify_model(engine.adapter),
            "engine": engine.engine,
            "judging": repr(self.judge_config.settings),
            "rubric": repr(load_rubric(self.resolve_rubric(file))),
            "max_model_len": engine.max_model_len,
            "seed": engine.seed,
        }
