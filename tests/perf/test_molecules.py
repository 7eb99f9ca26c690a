"""Questions about molecules, in a batch and one by one."""

from __future__ import annotations

import pytest

from flex_judge.experiments.commands.bench.result import print_result
from tests.perf.molecules import MoleculesConfig, run


def test_measures_both_sides_and_prints_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rdkit")
    result = run(MoleculesConfig(molecules=2, max_tokens=4, repeats=1))
    assert result.details["tokens_in_a_batch"] == result.details["tokens_one_after_the_other"] == 8
    print_result(result)
    assert "in a batch" in capsys.readouterr().out
