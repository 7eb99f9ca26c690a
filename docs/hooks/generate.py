"""mkdocs hook: make the pages whose content is the code's, and hide test directives.

Each page is an introduction in `docs/hooks/intro/` followed by what its module reads from the code. Nothing that is
generated is committed, so it cannot be out of date.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import architecture_page
import cli_page
import errors_page
import examples_page
import http_page
import metrics_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
INTRO = Path(__file__).parent / "intro"
GENERATORS: dict[str, Callable[[], str]] = {
    "guides/examples.md": examples_page.generate,
    "reference/cli.md": cli_page.generate,
    "reference/http.md": http_page.generate,
    "reference/metrics.md": metrics_page.generate,
    "reference/errors.md": errors_page.generate,
    "development/architecture.md": architecture_page.generate,
}
"""Page -> what follows its introduction."""
_DIRECTIVE = re.compile(r"^[ \t]*<!--\s*test:.*?-->[ \t]*\n", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, generate in GENERATORS.items():
        introduction = (INTRO / Path(path).name).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=f"{introduction}\n{generate()}"))
    files.append(File.generated(config, "development/contributing.md", content=read_contributing()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Remove the directives of the tests; tests/support/doc_pages.py explains them."""
    del page, config, files
    return _DIRECTIVE.sub("", markdown)


def read_contributing() -> str:
    """Read CONTRIBUTING.md with its links turned into links between pages."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.replace("](SECURITY.md)", "](../operations/security.md)")
