"""Data card of a preference data set: contents, method, dropped pairs and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flex_judge.alignment.preferences.filters import FilterSpec
from flex_judge.alignment.preferences.formats import FORMATS
from flex_judge.alignment.preferences.histogram import LogHistogram, ScoreHistogram
from flex_judge.alignment.preferences.pairs import DROP_REASONS
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.alignment.preferences.rules import RULES
from flex_judge.alignment.preferences.stats import CardStats
from flex_judge.alignment.preferences.warnings import format_percent, list_warnings
from flex_judge.alignment.reporting.markdown import format_code, join_lines, to_markdown
from flex_judge.alignment.reporting.model import Block, Report, Section, Table, TableRow

BAR_WIDTH = 40
"""Length of the longest bar of a chart in characters."""
_SIZE_LIMITS = (
    ("1K", 10**3),
    ("10K", 10**4),
    ("100K", 10**5),
    ("1M", 10**6),
    ("10M", 10**7),
    ("100M", 10**8),
    ("1B", 10**9),
)
"""Size categories of the Hugging Face hub."""
_POSITION_LABELS = {"first": "first answer wins", "second": "second answer wins", "tie": "tie"}
_RULE_SETTINGS = {"two_temperatures": ("winner",), "highest_quantile": ("quantile", "seed")}
"""Settings shown for a rule; other rules show the seed."""


@dataclass(frozen=True)
class CardSettings:
    """Settings of the run that made a data set, for its card."""

    files: str
    """Path of the data files, relative to the card's folder; may be a pattern such as `data/*.parquet`."""
    rule: RuleSpec = field(default_factory=RuleSpec)
    filters: FilterSpec = field(default_factory=FilterSpec)
    format: str = "preference"
    images: bool = False
    """Whether the data set is for models that take images."""
    molecules: bool = False
    """Whether the data set is for models that take molecules."""
    tools: bool = False
    """Whether a row has tool calls, definitions of tools, names or reasoning."""
    title: str = "Preference data"
    source: str = ""
    """Source of the prompts."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Sampling settings of the policy, such as temperature and token limit."""
    judge: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the judge, such as votes and order."""
    digest: str = ""
    """Digest of the files' content, see `flex_judge.alignment.data.folders`."""


def render_card(stats: CardStats, settings: CardSettings) -> str:
    """Render the card as Markdown with the hub's YAML header, to be saved as `README.md` in the folder of the files.

    The header lists files and features, so `load_dataset(folder)` needs no arguments. It names no license: the
    publisher chooses one under the terms of the prompts and of the models.
    """
    sections = []
    if warnings := list_warnings(stats):
        sections.append(Section("Warnings", [_format_list(warnings)]))
    method_rows = [(name, text) for name, text in _list_method_rows(stats, settings) if text]
    sections += [
        Section("Loading", _render_loading(settings)),
        Section("Method", [Table(("", ""), method_rows, text_columns=2)]),
        Section("Counts", [Table(("", "count", "share"), _list_count_rows(stats))]),
        Section("Dropped pairs", _render_drops(stats)),
        Section("Statistics", _render_statistics(stats)),
        Section("Columns", [_format_list(_describe_columns(settings))]),
    ]
    report = Report(settings.title, [_render_intro(stats, settings)], sections)
    return f"{_render_header(stats, settings)}\n{to_markdown(report)}"


def _render_header(stats: CardStats, settings: CardSettings) -> str:
    from datasets.info import DatasetInfo, DatasetInfosDict
    from huggingface_hub import DatasetCardData

    from flex_judge.alignment.preferences.schema import make_features

    # `datasets` caches by card content: the digest keeps it from reusing rows of an older version of the files.
    description = {"description": f"rows {settings.digest}"} if settings.digest else {}
    data = DatasetCardData(
        pretty_name=join_lines(settings.title),
        annotations_creators=["machine-generated"],
        size_categories=[_size_category(stats.rows)],
        tags=["preference", "synthetic", "llm-as-a-judge", "reward-model", "flex-judge", "trl"],
        configs=[{"config_name": "default", "data_files": settings.files, **description}],
    )
    info = DatasetInfo(features=make_features(settings.format, settings.images, settings.molecules, settings.tools))
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    note = "# license: choose one under the terms of the prompts and of the models named below\n"
    return f"---\n{note}{data.to_yaml()}\n---\n"


def _render_intro(stats: CardStats, settings: CardSettings) -> str:
    policies = _format_names(stats.policies) or "a policy"
    judges = _format_names(stats.judges) or "a judge"
    source = f" of {format_code(settings.source)}" if settings.source else ""
    media = ", with images" if settings.images else ", with molecules" if settings.molecules else ""
    return (
        f"Preference pairs: {stats.pairs:,}, from {stats.prompts:,} prompts{source}. Answers by {policies}, "
        f"preferences by {judges} (a reasoning judge model; no human ratings). Format `{settings.format}`, for "
        f"{FORMATS[settings.format].trainer}{media}."
    )


def _render_loading(settings: CardSettings) -> Iterator[str]:
    yield (
        '```python\nfrom datasets import load_dataset\n\ndata = load_dataset("PATH_OF_THIS_FOLDER", split="train")\n```'
    )
    if settings.format in ("preference", "image_pairs"):
        yield "TRL's RewardTrainer uses a column `margin` in its loss; drop the column if you do not want this."


def _list_method_rows(stats: CardStats, settings: CardSettings) -> Iterator[tuple[str, str]]:
    shown_settings = _RULE_SETTINGS.get(settings.rule.rule, ("seed",))
    rule = ", ".join(f"{name} {getattr(settings.rule, name)}" for name in shown_settings)
    # The first paragraph of the rule's docstring describes it to users.
    description = join_lines((RULES[settings.rule.rule].__doc__ or "").split("\n\n")[0])
    yield "policy", _format_names(stats.policies)
    yield "sampling", ", ".join([*_format_settings(settings.policy), *_format_temperatures(stats)])
    yield "judge", _format_names(stats.judges)
    yield "judging", ", ".join(_format_settings(settings.judge))
    yield "rubric", ", ".join(map(format_code, sorted(stats.rubrics)))
    yield "rule", f"`{settings.rule.rule}` ({rule}): {description}"
    filters = {
        name: value for name, value in asdict(settings.filters).items() if value is not None and value is not True
    }
    yield "filters", ", ".join(_format_settings(filters))


def _list_count_rows(stats: CardStats) -> Iterator[TableRow]:
    total_rows = stats.prompts + stats.bad_rows.total()
    yield "rows read", total_rows, ""
    for reason, count in stats.bad_rows.most_common():
        yield f"- left out: {join_lines(reason)}", count, _format_share(count, total_rows)
    yield "prompts", stats.prompts, _format_share(stats.prompts, total_rows)
    yield "answers", stats.completions, ""
    yield "- truncated", stats.cut, _format_share(stats.cut, stats.completions)
    yield "judgments", stats.judgments.total(), ""
    for status, count in stats.judgments.most_common():
        yield f"- {status.replace('_', ' ')}", count, _format_share(count, stats.judgments.total())
    yield "pairs kept", stats.pairs, ""
    yield "rows written", stats.rows, ""


def _render_drops(stats: CardStats) -> Iterator[Block]:
    reasons = sorted(stats.dropped, key=lambda reason: (-stats.dropped[reason], reason))
    rows = [(f"`{reason}`", DROP_REASONS[reason], stats.dropped[reason]) for reason in reasons if stats.dropped[reason]]
    if not rows:
        yield "No pair was dropped."
        return
    note = "Each dropped pair counts under one reason; a prompt without any possible pair counts once."
    yield Table(("reason", "meaning", "count"), rows, note=note, text_columns=2)


def _render_statistics(stats: CardStats) -> Iterator[Block]:
    pairs = stats.margins.count
    if not pairs:
        yield "The data set has no pair."
        return
    lengths = [
        ("chosen", *_format_length_quantiles(stats.length_chosen)),
        ("rejected", *_format_length_quantiles(stats.length_rejected)),
    ]
    shares = [
        ("chosen answer is longer", _format_share(stats.chosen_is["longer"], pairs)),
        ("both answers have the same length", _format_share(stats.chosen_is["equal"], pairs)),
        ("chosen answer was sampled before the rejected one", _format_share(stats.sampled_first["chosen"], pairs)),
    ]
    if votes := stats.places.total():
        for key, label in _POSITION_LABELS.items():
            shares.append((f"votes on two answers: {label}", _format_share(stats.places[key], votes)))
    if orders := stats.orders.total():
        shares.append(("comparisons whose orders disagree", _format_share(stats.orders["disagree"], orders)))
    yield Table(("length in characters", "mean", "10 %", "median", "90 %"), lengths)
    yield Table(("", "share"), shares)
    yield _render_chart("Scores of all answers", stats.scores)
    yield _render_chart("Margins of the pairs", stats.margins)


def _describe_columns(settings: CardSettings) -> list[str]:
    format_columns = {
        "preference": "`prompt`, `chosen`, `rejected`: lists of messages.",
        "kto": "`prompt`, `completion`: lists of messages; `label`: whether the completion is a chosen answer.",
        "reward": "`chosen`, `rejected`: whole conversations.",
        "image_pairs": "`prompt`: messages; `chosen_image`, `rejected_image`: images.",
    }
    lines = [format_columns[settings.format]]
    if settings.images:
        lines.append("`images`: the prompt's images in order of their parts; empty if there are none.")
    if settings.molecules:
        lines.append("`molecules`: SMILES strings in order of the placeholders `<mol>`.")
    if settings.tools:
        lines.append("`tools`: definitions of the tools as JSON text; null if the model has none.")
    margin = "score_margin" if settings.format == "reward" else "margin"
    return [
        *lines,
        f"`score_chosen`, `score_rejected`, `{margin}`: scores on the rubric's scale, and their difference.",
        "`judge_reasoning`: the judge's reasoning about `chosen` and `rejected`.",
        "`provenance`: the prompt's `id` and `prompt_digest`; `rule`, `rubric`, `judge` and `policy`; index, expected "
        "score and temperature of both answers; number of `votes`, and the fraction of votes against the preference "
        "(`disagreement`).",
    ]


def _format_length_quantiles(histogram: LogHistogram) -> tuple[str, ...]:
    return (f"{histogram.mean or 0:,.0f}", *(f"{histogram.quantile(share) or 0:,}" for share in (0.1, 0.5, 0.9)))


def _render_chart(title: str, histogram: ScoreHistogram) -> str:
    shares = histogram.compute_shares()
    if not shares:
        return f"{title}: none."
    top = max(shares.values())
    bars = []
    for value, share in shares.items():
        bar = "█" * max(1, round(BAR_WIDTH * share / top))
        bars.append(f"{value:>6g}  {format_percent(share):>7}  {bar}")
    return "\n".join([f"{title} (mean {histogram.mean:.2f}):", "", "```text", *bars, "```"])


def _format_list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _format_settings(values: Mapping[str, Any]) -> list[str]:
    return [f"{join_lines(name)} {join_lines(str(value))}" for name, value in values.items()]


def _format_temperatures(stats: CardStats) -> list[str]:
    temperatures = sorted(stats.temperatures, key=float)
    return [f"temperature {' and '.join(temperatures)}"] if temperatures else []


def _format_names(counts: Mapping[str, int]) -> str:
    return ", ".join(format_code(name) for name in sorted(counts) if name)


def _format_share(part: int, total: int) -> str:
    return format_percent(part / total) if total else ""


def _size_category(rows: int) -> str:
    """Return the hub's category for a number of rows."""
    lower = ""
    for name, limit in _SIZE_LIMITS:
        if rows < limit:
            return f"{lower}<n<{name}" if lower else f"n<{name}"
        lower = name
    return f"n>{lower}"
