"""Modules of the hook that generates pages of the documentation, in docs/hooks."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
from repository import DOCS

HOOKS = DOCS / "hooks"


def load_hook(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a module of the hook.

    The folder is on the import path for one test only, because its module `tables` would hide PyTables from pandas.
    """
    monkeypatch.syspath_prepend(str(HOOKS))
    return importlib.import_module(name)
