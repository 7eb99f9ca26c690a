"""The data card of a preference data set: contents, method, dropped pairs and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from operator import itemgetter
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
"""Characters of the longest bar of a chart."""
_SIZE_LIMITS = (
    ("1K", 10**3),
    ("10K", 10**4),
    ("100K", 10**5),
    ("1M", 10**6),
    ("10M", 10**7),
    ("100M", 10**8),
    ("1B", 10**9),
)


@dataclass(frozen=True)
class CardSettings:
    """What made a data set, for its card."""

    files: str
    """The files of rows, from the card's folder on; may be a pattern such as `data/*.parquet`."""
    rule: RuleSpec = field(default_factory=RuleSpec)
    filters: FilterSpec = field(default_factory=FilterSpec)
    format: str = "preference"
    images: bool = False
    """Whether the data set is for models that see images."""
    molecules: bool = False
    """Whether it is for models that see molecules."""
    title: str = "Preference data"
    source: str = ""
    """Where the prompts come from."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """How the policy was asked: temperature, most tokens..."""
    judge: Mapping[str, Any] = field(default_factory=dict)
    """How the judge was asked: votes, order..."""
    digest: str = ""
    """Of the content of the files, see `flex_judge.alignment.data.folders`."""


def render_card(stats: CardStats, settings: CardSettings) -> str:
    """The card as Markdown with the header that the hub reads, to be saved as `README.md` beside the files.

    The header names files and features, so `load_dataset(folder)` needs to be told nothing. It names no license: that
    is for whoever publishes the data to choose, under the terms of the prompts and of the models.
    """
    sections = [
        *([Section("Before you train on it", [_format_list(found)])] if (found := list_warnings(stats)) else []),
        Section("Loading", _render_loading(settings)),
        Section(
            "How it was made",
            [Table(("", ""), filter(itemgetter(1), _list_method_rows(stats, settings)), text_columns=2)],
        ),
        Section("What was kept", [Table(("", "count", "share"), _list_count_rows(stats))]),
        Section("What was dropped", _render_drops(stats)),
        Section("Statistics", _render_statistics(stats)),
        Section("Columns", [_format_list(_describe_columns(settings))]),
    ]
    report = Report(settings.title, [_render_intro(stats, settings)], sections)
    return f"{_render_header(stats, settings)}\n{to_markdown(report)}"


def _render_header(stats: CardStats, settings: CardSettings) -> str:
    from datasets.info import DatasetInfo, DatasetInfosDict
    from huggingface_hub import DatasetCardData

    from flex_judge.alignment.preferences.schema import make_features

    told = {"description": f"rows {settings.digest}"} if settings.digest else {}
    data = DatasetCardData(
        pretty_name=join_lines(settings.title),
        annotations_creators=["machine-generated"],
        size_categories=[_size_category(stats.rows)],
        tags=["preference", "synthetic", "llm-as-a-judge", "reward-model", "flex-judge", "trl"],
        configs=[{"config_name": "default", "data_files": settings.files, **told}],
    )
    info = DatasetInfo(features=make_features(settings.format, settings.images, settings.molecules))
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    note = "# license: yours to choose, under the terms of the prompts and of the models that are named below\n"
    return f"---\n{note}{data.to_yaml()}\n---\n"


def _render_intro(stats: CardStats, settings: CardSettings) -> str:
    trainer = FORMATS[settings.format].trainer
    policies, judges = _format_names(stats.policies), _format_names(stats.judges)
    return (
        f"Preference pairs: {stats.pairs:,}, from {stats.prompts:,} prompts"
        + (f" of {format_code(settings.source)}" if settings.source else "")
        + f". Answers by {policies or 'a policy'}, preferences by {judges or 'a judge'} (a reasoning judge model: no "
        f"human has rated anything). Format `{settings.format}`, for {trainer}"
        + (", with images." if settings.images else ", with molecules." if settings.molecules else ".")
    )


def _render_loading(settings: CardSettings) -> Iterator[str]:
    yield (
        '```python\nfrom datasets import load_dataset\n\ndata = load_dataset("PATH_OF_THIS_FOLDER", split="train")\n```'
    )
    if settings.format in ("preference", "image_pairs"):
        yield "TRL's RewardTrainer uses a column `margin` in its loss; drop that column if you do not want this."


def _list_method_rows(stats: CardStats, settings: CardSettings) -> Iterator[tuple[str, str]]:
    used = {"two_temperatures": ("winner",), "highest_quantile": ("quantile", "seed")}.get(
        settings.rule.rule, ("seed",)
    )
    rule = ", ".join(f"{name} {getattr(settings.rule, name)}" for name in used)
    told = " ".join((RULES[settings.rule.rule].__doc__ or "").split("\n\n")[0].split())
    yield "policy", _format_names(stats.policies)
    yield "sampling", ", ".join([*_format_settings(settings.policy), *_format_temperatures(stats)])
    yield "judge", _format_names(stats.judges)
    yield "judging", ", ".join(_format_settings(settings.judge))
    yield "rubric", ", ".join(map(format_code, sorted(stats.rubrics)))
    yield "rule", f"`{settings.rule.rule}` ({rule}): {told}"
    filters = {k: v for k, v in asdict(settings.filters).items() if v is not None and v is not True}
    yield "filters", ", ".join(_format_settings(filters))


def _list_count_rows(stats: CardStats) -> Iterator[TableRow]:
    bad = stats.bad_rows.total()
    yield "rows read", stats.prompts + bad, ""
    for reason, count in stats.bad_rows.most_common():
        yield f"- left out: {join_lines(reason)}", count, _format_share(count, stats.prompts + bad)
    yield "prompts", stats.prompts, _format_share(stats.prompts, stats.prompts + bad)
    yield "answers", stats.completions, ""
    yield "- cut off", stats.cut, _format_share(stats.cut, stats.completions)
    yield "judgments", stats.judgments.total(), ""
    for status, count in stats.judgments.most_common():
        yield f"- {status.replace('_', ' ')}", count, _format_share(count, stats.judgments.total())
    yield "pairs kept", stats.pairs, ""
    yield "rows written", stats.rows, ""


def _render_drops(stats: CardStats) -> Iterator[Block]:
    rows = [
        (f"`{reason}`", DROP_REASONS[reason], stats.dropped[reason])
        for reason in sorted(stats.dropped, key=lambda reason: (-stats.dropped[reason], reason))
        if stats.dropped[reason]
    ]
    note = "Each pair counts under one reason; a prompt of which no pair could be made at all counts once."
    yield Table(("reason", "meaning", "count"), rows, note=note, text_columns=2) if rows else "Nothing."


def _render_statistics(stats: CardStats) -> Iterator[Block]:
    if not stats.margins.count:
        yield "There is no pair to measure."
        return
    lengths = [
        ("chosen", *_format_length_quantiles(stats.length_chosen)),
        ("rejected", *_format_length_quantiles(stats.length_rejected)),
    ]
    pairs = stats.margins.count
    shares = [
        ("the chosen answer is the longer one", _format_share(stats.chosen_is["longer"], pairs)),
        ("both are equally long", _format_share(stats.chosen_is["equal"], pairs)),
        ("the chosen answer was sampled before the other", _format_share(stats.sampled_first["chosen"], pairs)),
    ]
    if votes := stats.places.total():
        shares += [
            (f"votes on two answers: {won}", _format_share(stats.places[key], votes))
            for key, won in _POSITION_LABELS.items()
        ]
    if orders := stats.orders.total():
        shares.append(("comparisons in which the orders disagree", _format_share(stats.orders["disagree"], orders)))
    yield Table(("length in characters", "mean", "10 %", "median", "90 %"), lengths)
    yield Table(("", "share"), shares)
    yield _render_chart("Scores of all answers", stats.scores)
    yield _render_chart("Margins of the pairs", stats.margins)


_POSITION_LABELS = {"first": "the one read first wins", "second": "the one read second wins", "tie": "a tie"}


def _describe_columns(settings: CardSettings) -> list[str]:
    own = {
        "preference": "`prompt`, `chosen`, `rejected`: lists of messages.",
        "kto": "`prompt`, `completion`: lists of messages; `label`: whether the answer is a chosen one.",
        "reward": "`chosen`, `rejected`: whole conversations.",
        "image_pairs": "`prompt`: messages; `chosen_image`, `rejected_image`.",
    }
    margin = "score_margin" if settings.format == "reward" else "margin"
    return [
        f"{own[settings.format]}",
        *(["`images`: the prompt's images in the order of their parts; empty where it has none."] * settings.images),
        *(["`molecules`: SMILES of the molecules, in the order of their places, `<mol>`."] * settings.molecules),
        f"`score_chosen`, `score_rejected`, `{margin}`: scores on the rubric's scale, and their difference.",
        "`judge_reasoning`: what the judge thought of `chosen` and of `rejected`.",
        "`provenance`: the prompt's `id` and `prompt_digest`, `rule`, `rubric`, `judge`, `policy`; which of the "
        "prompt's answers the two are; their expected scores and temperatures; how many `votes` the pair rests on, and "
        "the share of them that does not say what it says (`disagreement`).",
    ]


def _format_length_quantiles(histogram: LogHistogram) -> tuple[str, ...]:
    return (f"{histogram.mean or 0:,.0f}", *(f"{histogram.quantile(share) or 0:,}" for share in (0.1, 0.5, 0.9)))


def _render_chart(title: str, tally: ScoreHistogram) -> str:
    shares = tally.compute_shares()
    if not shares:
        return f"{title}: there are none."
    top = max(shares.values())
    bars = [
        f"{value:>6g}  {format_percent(s):>7}  {'█' * max(1, round(BAR_WIDTH * s / top))}"
        for value, s in shares.items()
    ]
    return "\n".join([f"{title} (mean {tally.mean:.2f}):", "", "```text", *bars, "```"])


def _format_list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _format_settings(values: Mapping[str, Any]) -> list[str]:
    return [f"{join_lines(name)} {join_lines(str(value))}" for name, value in values.items()]


def _format_temperatures(stats: CardStats) -> list[str]:
    found = sorted(stats.temperatures, key=float)
    return [f"temperature {' and '.join(found)}"] if found else []


def _format_names(counts: Mapping[str, int]) -> str:
    return ", ".join(format_code(name) for name in sorted(counts) if name)


def _format_share(part: int, whole: int) -> str:
    return format_percent(part / whole) if whole else ""


def _size_category(rows: int) -> str:
    """The hub's name for a size."""
    below = ""
    for name, limit in _SIZE_LIMITS:
        if rows < limit:
            return f"{below}<n<{name}" if below else f"n<{name}"
        below = name
    return f"n>{below}"
