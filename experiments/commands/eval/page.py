"""The report page of a run of a benchmark: figures beside the published ones, what lies behind them, and the worst
disagreements. One HTML file that needs no network and no script; texts of models are escaped."""

from __future__ import annotations

import base64
from pathlib import Path

from flex_judge.experiments.commands.eval.view import bounds, metric_title, number, of_all, published_table
from flex_judge.experiments.common.reporting import wording
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_object, write_text

_NEEDED = ("benchmark", "tasks", "published", "judge", "items")
MOST_TEXT = 2000
"""Characters of a text on the page."""


def write_page(run: Path) -> Path:
    """Write `report.html` into the folder of a run, from its `summary.json`, and return its path.

    Raises:
        UsageError: the summary is missing or broken.
    """
    import jinja2

    from flex_judge.experiments.benchmarks import BENCHMARKS

    summary = read_object(run / "summary.json", _NEEDED)
    benchmark = BENCHMARKS.get(summary["benchmark"])
    if benchmark is None:
        raise UsageError(f"{run / 'summary.json'}: there is no benchmark {summary['benchmark']!r}")
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("flex_judge.experiments.common.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = env.get_template("eval.html").render(
        s=summary,
        about=benchmark.spec.about,
        title=benchmark.spec.title,
        published=published_table(summary),
        count=wording.count,
        percent=wording.percent,
        number=number,
        bounds=bounds,
        of_all=of_all,
        metric=metric_title,
        picture=lambda name: picture(run, name),
        cut=cut,
        unscored=[(wording.STATUS_WORDS.get(why, why), times) for why, times in summary["unscored"].items()],
    )
    path = run / "report.html"
    write_text(path, page.lstrip().encode("utf-8", errors="replace").decode())
    return path


def picture(run: Path, name: str) -> str:
    """A picture of the run's folder as a data URI; nothing where it is gone."""
    file = run / name
    if file.resolve().parent.parent != run.resolve() or not file.is_file():
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode()


def cut(text: str) -> str:
    """A text that fits on a page."""
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " …"
