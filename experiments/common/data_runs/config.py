"""Settings shared by runs over data sets: prompts, policy, judge, and placement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from flex_judge.alignment.data.prompts import FIELDS as PROMPT_FIELDS
from flex_judge.alignment.data.prompts import PromptColumns
from flex_judge.alignment.data.sources import FirstRows, Source, open_source
from flex_judge.alignment.pipeline.judge_service import RemoteJudge
from flex_judge.alignment.policies.config import PolicyConfig, check_policy
from flex_judge.alignment.tasks import arithmetic
from flex_judge.experiments.common.flags import setting
from flex_judge.experiments.common.judge_config import JUDGE_SECTION, JUDGING, JudgeFlags, start_timeout_setting
from flex_judge.experiments.common.start_checks import check_columns, check_models
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models import identify_model
from flex_judge.judges.models.embedded import BASE
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.validation.classes import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    settings_class,
)
from flex_judge.reward.serving.cluster import check_address

_DATA, _POLICY, _RUN = "prompts", "policy", "placement and retries"
"""Group headings in the help."""
JUDGE_NAMES = {"model": "judge", "adapter": "judge_adapter"}
"""Names of judge settings in commands that also have a policy, where `--model` would be ambiguous."""
SHARED_SETTINGS = ("seed", "max_model_len", "max_batch")
"""Judge settings that apply to the policy too."""
DEFAULT_SAMPLES = 8
"""Default number of answers per prompt."""
TASK_PROMPTS = 200
"""Default number of prompts of the embedded task."""
MAX_ANSWER_TOKENS = 512
"""Default maximum answer length in tokens, except for the embedded task."""


def out_setting(default: str) -> Any:
    """Declare the setting for the output folder of a command."""
    return setting(default, "Output folder; an existing run in it is resumed", metavar="DIR", group="results")


@settings_class(kw_only=True)
class DataFlags(JudgeFlags):
    """Settings of a run over prompts, as flags and YAML keys."""

    judge: Annotated[JudgeConfig, replace(JUDGE_SECTION, names=JUDGE_NAMES)]
    out: str = out_setting("runs/data")
    prompts: PositiveInt | None = setting(
        None,
        f"Number of prompts to use, from the first (default: all; embedded task: {TASK_PROMPTS})",
        metavar="N",
        group=_DATA,
    )
    column: tuple[str, ...] = setting(
        (),
        f"Column of the data set that holds a field under another name: FIELD is {', '.join(PROMPT_FIELDS)}; may be "
        "repeated",
        metavar="FIELD=COL",
        group=_DATA,
    )
    system: str | None = setting(None, "System message added before every prompt", metavar="TEXT", group=_DATA)
    keep: tuple[str, ...] = setting((), "Column to copy into the results; may be repeated", metavar="COL", group=_DATA)
    answer: str | None = setting(
        None, "Column with the correct answer, a number, for accuracies", metavar="COL", group=_DATA
    )
    policy: str = setting(
        BASE,
        "Policy model: embedded name, folder, hub id, or model name at --policy-url",
        metavar="MODEL",
        group=_POLICY,
    )
    policy_engine: str = setting(
        "auto",
        "Engine of the policy: vllm, transformers, openai, or one registered by an installed package",
        metavar="NAME",
        group=_POLICY,
    )
    policy_adapter: str | None = setting(
        None, "LoRA adapter of the policy: folder or hub id", metavar="MODEL", group=_POLICY
    )
    policy_url: str | None = setting(
        None,
        "OpenAI-compatible endpoint to sample from, instead of a local policy model",
        metavar="URL",
        group=_POLICY,
    )
    policy_key: str | None = setting(
        None,
        "API key of the policy endpoint: an environment variable or a file",
        metavar="env:NAME|FILE",
        group=_POLICY,
    )
    samples: PositiveInt | None = setting(
        None, f"Number of answers sampled per prompt (default: {DEFAULT_SAMPLES})", metavar="N", group=_POLICY
    )
    sample_temperature: NonNegativeFloat = setting(
        0.8, "Sampling temperature of the policy", metavar="T", group=_POLICY
    )
    sample_top_p: Fraction = setting(
        0.95, "Nucleus sampling of the policy: probability mass to sample from", metavar="P", group=_POLICY
    )
    sample_tokens: PositiveInt | None = setting(
        None,
        "Maximum answer length in tokens "
        f"(default: {MAX_ANSWER_TOKENS}; embedded task: {arithmetic.MAX_ANSWER_TOKENS})",
        metavar="N",
        group=_POLICY,
    )
    sample_stop: tuple[str, ...] = setting(
        (), "Stop string that ends an answer; may be repeated", metavar="T", group=_POLICY
    )
    rubric: str | None = setting(
        None,
        "Rubric of the judge: preset or TOML file (default: general; embedded task: correctness)",
        metavar="NAME",
        group=JUDGING,
    )
    replicas: PositiveInt = setting(1, "Number of judge replicas", metavar="N", group=_RUN)
    policy_replicas: PositiveInt = setting(1, "Number of policy replicas", metavar="N", group=_RUN)
    address: str | None = setting(
        None,
        "Join the Ray cluster at this host:port, or auto, instead of starting one",
        metavar="HOST:PORT",
        group=_RUN,
    )
    start_timeout_s: PositiveFloat = start_timeout_setting(_RUN)
    retry_rejected: bool = setting(
        False,
        "Retry prompts that an earlier run rejected, and with them their whole shards",
        group=_RUN,
    )
    max_failures: NonNegativeInt = setting(
        0, "Maximum number of prompts without a result; more give exit status 1", metavar="N", group=_RUN
    )

    def __post_init__(self) -> None:
        if self.sample_temperature == 0 and self.num_answers > 1:
            raise UsageError(
                f"--sample-temperature: 0 with {self.num_answers} samples; use a value above 0, because greedy samples "
                "of a prompt are all the same"
            )
        _ = self.build_columns(None)  # raises for an invalid --column before any work is done
        self._check_service()
        if self.rubric is not None:
            load_rubric(self.rubric)

    def _check_service(self) -> None:
        """Check that no flag configures a judge that runs in a service already."""
        self.check_service(names=JUDGE_NAMES, own=SHARED_SETTINGS)

    def open_prompts(self, file: str | None) -> Source:
        """Open the prompts of a file or data set, or of the embedded task if `file` is None.

        Raises:
            UsageError: there are no prompts, or a flag names a column but there is no file.
        """
        if file is None:
            # The embedded task has fixed columns.
            for name in ("column", "keep", "answer"):
                if getattr(self, name):
                    raise UsageError(
                        f"--{name} refers to a column of FILE, but there is no FILE; name one or remove it"
                    )
            questions = arithmetic.ArithmeticSource(self.prompts or TASK_PROMPTS, self.judge.engine.seed)
            next(questions.read_range(0, 1))  # raises if the task has fewer questions than requested
            return questions
        source = open_source(file)
        check_columns(source, self.build_columns(file))
        return source if self.prompts is None else FirstRows(source, self.prompts)

    @property
    def num_answers(self) -> int:
        """Number of answers per prompt."""
        return DEFAULT_SAMPLES if self.samples is None else self.samples

    def get_answer_column(self, file: str | None) -> str | None:
        """Return the column with the correct answer, or None."""
        return "answer" if file is None else self.answer

    def build_columns(self, file: str | None) -> PromptColumns:
        """Build the column mapping of the prompts."""
        return PromptColumns.from_arguments(self.column, self.keep, self.get_answer_column(file), self.system)

    def build_sampling(self, file: str | None) -> Sampling:
        """Build the policy's sampling parameters; an answer to the embedded task ends with its first line."""
        stop = self.sample_stop or (arithmetic.STOP if file is None else ())
        tokens = self.sample_tokens or (arithmetic.MAX_ANSWER_TOKENS if file is None else MAX_ANSWER_TOKENS)
        return Sampling(tokens, self.sample_temperature, self.sample_top_p, tuple(stop), seed=self.judge.engine.seed)

    def resolve_rubric(self, file: str | None) -> str:
        """Return the rubric's name, or the absolute path of its file: replicas have other working directories."""
        name = self.rubric or ("correctness" if file is None else "general")
        return str(Path(name).resolve()) if name.endswith(".toml") else name

    @property
    def policy_config(self) -> PolicyConfig:
        """Configuration of the policy.

        Raises:
            UsageError: the policy is not available.
        """
        engine = self.judge.engine
        # A policy has the engine of the judge, unless the judge runs elsewhere.
        shared_engine = "auto" if self.policy_url or engine.is_remote else engine.engine
        config = PolicyConfig(
            self.policy,
            self.policy_engine if self.policy_engine != "auto" else shared_engine,
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
        """Check the models, addresses and memory before anything is started; downloads no weights except adapters.

        Raises:
            UsageError: the judge or the policy is not available, or no cluster answers at its address.
            ServiceUnavailableError: no judge service answers at its URL.
        """
        if self.address:
            check_address(self.address)
        judge = self.judge_config if self.external_judge is None else self.external_judge
        policies, judges = [self.policy_config] * self.policy_replicas, [judge] * self.replicas
        check_models(policies, judges, [self.rubric] if self.rubric else [], is_local=not self.address)

    @property
    def needs_ray(self) -> bool:
        """Whether the run needs a cluster; endpoints of policy and judge are reached from this process."""
        return self.address is not None or self.policy_url is None or self.judge_url is None

    @property
    def external_judge(self) -> RemoteJudge | None:
        """Judge service at `judge_url`; None if this run starts its own."""
        return self.find_service(self.judge.engine.max_batch)

    def build_identity(self, source: Source, file: str | None) -> dict[str, object]:
        """Collect the settings that determine the results; a run folder holds one run with one identity."""
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
            # The seed is listed on its own below.
            "sampling": repr(replace(sampling, seed=None)),
            "judge": identify_model(engine.model) if self.judge_url is None else self.judge_url,
            "judge_adapter": identify_model(engine.adapter),
            "engine": engine.engine,
            "judging": repr(self.judge_config.settings),
            "rubric": repr(load_rubric(self.resolve_rubric(file))),
            "max_model_len": engine.max_model_len,
            "seed": engine.seed,
        }
