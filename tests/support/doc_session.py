"""Python process that runs the Python blocks of one page in one namespace. Started by `doc_runner.py`."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import sys
import traceback
from types import ModuleType


def run_block(code: str, page: str, line: int, namespace: ModuleType, loop: asyncio.AbstractEventLoop) -> str:
    """Run a block whose first line is line `line` of the page. Returns the traceback, empty on success."""
    try:
        # Empty lines in front make tracebacks name the lines of the page.
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        compiled = compile("\n" * (line - 1) + code, page, "exec", flags=flags, dont_inherit=True)
        result = eval(compiled, vars(namespace))
        if inspect.iscoroutine(result):
            loop.run_until_complete(result)
    except (Exception, SystemExit):  # noqa: BLE001 - whatever a block raises is reported with its page
        return traceback.format_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return ""


def main(results: int) -> None:
    """Run one block for each JSON line on stdin and write one JSON line to the file descriptor `results`."""
    requests = os.fdopen(os.dup(0))
    with open(os.devnull) as nothing:  # a block that reads stdin must not read requests
        os.dup2(nothing.fileno(), 0)
    sys.path[0] = os.getcwd()  # the files of the page can be imported
    namespace = sys.modules["__main__"] = ModuleType("__main__")
    loop = asyncio.new_event_loop()
    for line in requests:
        error = run_block(**json.loads(line), namespace=namespace, loop=loop)
        os.write(results, json.dumps({"error": error}).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
