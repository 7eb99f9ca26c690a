"""Small inputs with the faults of real files, in a folder outside the repository."""

from __future__ import annotations

import pytest
from repository import find_shared

CASES = find_shared("cases")
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the folder of shared cases is not on this machine")
