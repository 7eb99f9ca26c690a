"""The runner of documentation pages, on small pages of its own."""

from __future__ import annotations

import textwrap
from pathlib import Path

import psutil
import pytest
from doc_runner import BlockError, PageReport, PageRunner


def run(text: str, folder: Path) -> PageReport:
    page = folder / "page.md"
    page.write_text(textwrap.dedent(text))
    with PageRunner(page, folder / "run") as runner:
        return runner.run()


def test_blocks_share_a_folder_and_python_blocks_a_namespace(tmp_path: Path) -> None:
    report = run(
        """\
        ```json title="data/rows.json"
        [1, 2]
        ```
        ```python title="own.py"
        FACTOR = 2
        ```
        ```python
        import json, own
        rows = json.load(open("data/rows.json"))
        ```
        ```bash
        export WORD=carried && cd data
        ```
        ```bash
        echo $WORD && basename $PWD
        ```
        <!-- test: output -->
        ```text
        carried
        data
        ```
        ```python
        async def total():
            return sum(rows) * own.FACTOR
        print("total", await total())
        ```
        <!-- test: output -->
        ```text
        total 6
        ```
        <!-- test: skip needs a GPU -->
        ```bash
        exit 1
        ```
        """,
        tmp_path,
    )
    assert (report.blocks_run, report.files_written) == (4, 2)
    assert str(report).endswith("line 33: needs a GPU")


def test_flex_judge_is_the_one_of_this_checkout(tmp_path: Path) -> None:
    run(
        """\
        ```bash
        flex-judge --version
        ```
        <!-- test: output -->
        ```text
        0...
        ```
        """,
        tmp_path,
    )


def test_a_failing_command_names_page_line_and_output(tmp_path: Path) -> None:
    with pytest.raises(BlockError, match=r"(?s)^page.md:3: exit status 3, expected 0\n.*--- stderr\nno luck$"):
        run("Text\n```bash\necho no luck >&2; exit 3\n```\n", tmp_path)


def test_a_failing_python_block_names_the_lines_of_the_page(tmp_path: Path) -> None:
    with pytest.raises(BlockError, match=r'(?s)^page.md:2: exit status 1.*page.md", line 3, in .*ZeroDivisionError'):
        run("```python\nx = 0\n1 / x\n```\n", tmp_path)


def test_another_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BlockError, match=r"page.md:2: the output is not the expected one:\n2\n"):
        run("```bash\necho 1\n```\n<!-- test: output -->\n```text\n2\n```\n", tmp_path)


def test_an_expected_exit_status_is_checked(tmp_path: Path) -> None:
    run("<!-- test: exit 3 -->\n```bash\nexit 3\n```\n", tmp_path)


def test_a_server_gets_a_port_and_ends_with_the_page(tmp_path: Path) -> None:
    run(
        """\
        <!-- test: setup
        cat > server.py <<'CODE'
        import http.server, os, sys
        server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])),
                                        http.server.SimpleHTTPRequestHandler)
        open("pid", "w").write(str(os.getpid()))
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
        CODE
        -->
        <!-- test: background -->
        ```bash
        python server.py --port 8123
        ```
        ```python
        import urllib.request
        print(urllib.request.urlopen("http://localhost:8123/pid").status)
        ```
        <!-- test: output -->
        ```text
        200
        ```
        """,
        tmp_path,
    )
    pid = int((tmp_path / "run" / "page" / "pid").read_text())
    assert not psutil.pid_exists(pid)


def test_a_server_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BlockError, match=r"(?s)the server printed no URL; exit status 1.*--- stderr\nin use$"):
        run("<!-- test: background -->\n```bash\necho in use >&2; exit 1\n```\n", tmp_path)


@pytest.mark.slow
def test_a_scripted_judge_is_served_without_ray(tmp_path: Path) -> None:
    run(
        """\
        <!-- test: setup background
        python -m doc_server
        -->
        ```bash
        curl -s http://localhost:8000/v1/judge -H 'Content-Type: application/json' \\
            -d '{"comparisons": [{"prompt": "What?", "responses": ["says=9", "says=2"]}]}'
        ```
        <!-- test: output -->
        ```json
        ..."scores": [9.0, 2.0]...
        ```
        """,
        tmp_path,
    )
