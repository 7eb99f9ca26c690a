"""Configuration dataclasses as flags and YAML: every value is used or rejected by name, never ignored."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
from flex_judge.experiments.commands.serve.config import ServeRun
from flex_judge.experiments.common.flags import add_flags, load_config, setting
from flex_judge.judges import UsageError
from flex_judge.judges.validation.flat import flatten_values


@dataclass(frozen=True)
class Cake:
    eggs: int = setting(3, "Number of eggs", metavar="N")
    sugar: float = setting(0.5, "Amount of sugar", group="taste")
    nuts: str | None = setting(None, "Kind of nuts", group="taste")
    layers: tuple[str, ...] = setting((), "Layer")
    baked: bool = setting(True, "Bake it")
    vegan: bool = setting(False, "Leave out eggs")
    shape: str = setting("round", "Shape", choices=("round", "square"))


def load_cake(*flags: str, yaml: str = "", folder: Path | None = None) -> Cake:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, Cake)
    if folder:
        (folder / "c.yaml").write_text(yaml)
        flags = ("--config", str(folder / "c.yaml"), *flags)
    return load_config(Cake, parser.parse_args(flags))


def test_returns_defaults_without_flags_and_file() -> None:
    assert load_cake() == Cake()


def test_flags_set_values_of_every_type() -> None:
    flags = ["--eggs", "2", "--sugar", "1", "--nuts", "hazel", "--layers", "a", "--layers", "b", "--no-baked"]
    assert load_cake(*flags, "--vegan", "--shape", "square") == Cake(2, 1.0, "hazel", ("a", "b"), False, True, "square")


def test_file_sets_values_of_every_type(tmp_path: Path) -> None:
    yaml = "eggs: 2\nsugar: 1\nnuts: hazel\nlayers: [a, b]\nbaked: false\nvegan: true\nshape: square\n"
    assert load_cake(yaml=yaml, folder=tmp_path) == Cake(2, 1.0, "hazel", ("a", "b"), False, True, "square")


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    assert load_cake("--eggs", "5", "--baked", yaml="eggs: 4\nsugar: 2\nbaked: no", folder=tmp_path) == Cake(5, 2.0)


def test_optional_setting_may_be_null_in_a_file(tmp_path: Path) -> None:
    assert load_cake(yaml="nuts: null", folder=tmp_path) == Cake()
    assert load_cake(yaml="nuts: ~\neggs: 1", folder=tmp_path) == Cake(1)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_file_may_start_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("eggs: 2\r\nnuts: häsel\r\n", encoding=encoding, newline="")
    assert load_cake("--config", str(tmp_path / "c.yaml")) == Cake(eggs=2, nuts="häsel")


def test_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load_cake(yaml="# nothing\n", folder=tmp_path) == Cake()


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("egs: 3", "unknown setting 'egs'; did you mean 'eggs'?"),
        ("eggs: null", "setting 'eggs' must be of type int, not None"),
        ("eggs: '3'", "setting 'eggs' must be of type int, not '3'"),
        ("eggs: 3.0", "setting 'eggs' must be of type int, not 3.0"),
        ("sugar: true", "setting 'sugar' must be of type float, not True"),
        ("nuts: 3", "setting 'nuts' must be of type str, not 3"),
        ("layers: 3", "setting 'layers' must be a list of texts, not 3"),
        ("layers: a", "setting 'layers' must be a list of texts, not 'a'"),
        ("layers: [a, 3]", "setting 'layers' must be a list of texts, not ['a', 3]"),
        ("baked: 1", "setting 'baked' must be of type bool, not 1"),
        ("shape: oval", "setting 'shape' must be one of round, square, not 'oval'"),
        ("- eggs", "expected settings as 'name: value', got list"),
        ("eggs: [", "not YAML"),
        ("eggs: " + "[" * 5000, "not YAML"),
        ("eggs: 2026-13-01", "c.yaml"),  # an invalid date, or a text where another library took dates out of YAML
        ("eggs: " + "9" * 5000, "not YAML"),
    ],
)
def test_wrong_setting_in_a_file_is_named(yaml: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as e:
        load_cake(yaml=yaml, folder=tmp_path)
    assert str(e.value).startswith(f"{tmp_path / 'c.yaml'}: ")
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_help_shows_defaults_and_headings(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        load_cake("--help")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "--eggs N Number of eggs (default: 3)" in lines
    assert "--baked, --no-baked Bake it (the default)" in lines
    assert "--vegan Leave out eggs" in lines
    taste = lines.index("taste:")
    assert lines[taste + 1 : taste + 3] == ["--sugar SUGAR Amount of sugar (default: 0.5)", "--nuts NUTS Kind of nuts"]


def test_one_judge_file_serves_commands_that_spell_the_model_differently(tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text("model: some-judge\nadapter: some-adapter\nvotes: 3\n")
    for config in (BestOfNRun, ServeRun):
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_flags(parser, config)
        flat = flatten_values(load_config(config, parser.parse_args(["--config", str(file)])))
        assert flat["votes"] == 3
        assert {"some-judge", "some-adapter"} <= {value for value in flat.values() if isinstance(value, str)}
    file.write_text("model: some-judge\njudge: other-judge\n")
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, BestOfNRun)
    with pytest.raises(UsageError, match="given twice"):
        load_config(BestOfNRun, parser.parse_args(["--config", str(file)]))
