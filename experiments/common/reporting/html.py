"""Reports as HTML pages: self-contained files without scripts.

All pages extend `templates/base.html`, which contains the style sheet. Model output is untrusted: the templates escape
everything except plots, and the content security policy of the base template forbids scripts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Report, format_cell, name_option
from flex_judge.experiments.common.reporting.blocks import Page, show_hidden_characters
from flex_judge.experiments.common.reporting.wording import format_count, format_percent
from flex_judge.judges.io.jsonl import write_text


def write_page(path: Path, report: Report | Page) -> Path:
    """Write a report into an HTML file and return its path."""
    return write_template(path, "page.html", title=report.title, report=report)


def write_template(path: Path, template: str, **values: Any) -> Path:
    """Render a template into a file and return its path."""
    import jinja2  # imported here to keep the import of the command line light

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flex_judge.experiments.common.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=format_cell, percent=format_percent, letter=name_option)
    environment.globals["count"] = format_count
    page = environment.get_template(template).render(values).lstrip()
    # Models can generate half a surrogate pair, which UTF-8 cannot encode; it becomes a question mark.
    write_text(path, page.encode("utf-8", errors="replace").decode())
    return path


def _finalize_value(value: Any) -> Any:
    """Make control characters visible in every text of a page; markup of the templates is unchanged."""
    return show_hidden_characters(value) if type(value) is str else value
