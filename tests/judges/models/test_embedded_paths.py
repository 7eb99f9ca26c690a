"""`flex_judge.models` and `flex-judge model`: folders of the embedded models."""

from __future__ import annotations

from pathlib import Path

import pytest

import flex_judge
from flex_judge.experiments.cli import main
from flex_judge.judges.errors import ModelNotFoundError
from flex_judge.judges.models import resolve_model


def test_path_of_an_embedded_model() -> None:
    path = flex_judge.models.path("smollm2-135m")
    assert path == resolve_model("smollm2-135m")
    assert (path / "config.json").is_file()
    assert flex_judge.models.list_names() == ["smollm2-135m", "flex-smollm2-135m"]


def test_command_prints_the_path_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "flex-smollm2-135m"]) == 0
    assert Path(capfd.readouterr().out.strip()) == resolve_model("flex-smollm2-135m")
    assert main(["model"]) == 0
    assert capfd.readouterr().out.split() == ["smollm2-135m", "flex-smollm2-135m"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("smollm-135m", "; did you mean smollm2-135m?"), ("flex-smolm2", "; did you mean flex-smollm2-135m?"), ("x", "")],
)
def test_unknown_name_gives_one_line_with_the_list(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = f"no embedded model '{name}'; there are smollm2-135m, flex-smollm2-135m{hint}"
    with pytest.raises(ModelNotFoundError) as error:
        flex_judge.models.path(name)
    assert str(error.value) == message
    assert main(["model", name]) == 2
    assert capsys.readouterr().err == f"flex-judge: error: {message}\n"
