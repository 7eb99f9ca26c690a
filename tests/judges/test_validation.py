"""Settings classes: declared bounds, one-line errors, and the flat view of nested settings."""

from __future__ import annotations

import pickle
from dataclasses import asdict, field, replace
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Interval

from flex_judge.judges import JudgeConfig, JudgeSettings, UsageError
from flex_judge.judges.validation.classes import NonNegativeFloat, PositiveInt, settings_class
from flex_judge.judges.validation.flat import SettingsSection, build_settings, flatten_settings, flatten_values


@settings_class
class Oven:
    temperature: Annotated[int, Interval(ge=50, le=250)] = 180
    fan: Literal["off", "on"] = "off"
    minutes: Annotated[float, Ge(1)] | None = None
    trays: tuple[str, ...] = ()
    power: Annotated[float, Interval(gt=0, le=1)] = 1.0
    weight: NonNegativeFloat = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fan == "on" and self.temperature > 200:
            raise UsageError("fan on needs a temperature of at most 200")


@settings_class(kw_only=True)
class Cake:
    oven: Annotated[Oven, SettingsSection("oven", skip=frozenset({"weight"}), defaults={"temperature": 160})]
    eggs: PositiveInt = 3
    seed: int = 0
    name: str = field(default="cake", repr=False)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"temperature": 20}, "temperature must be from 50 to 250, not 20"),
        ({"temperature": "180"}, "temperature must be of type int, not '180'"),
        ({"temperature": True}, "temperature must be of type int, not True"),
        ({"temperature": None}, "temperature must be of type int, not None"),
        ({"fan": "fast"}, "fan must be one of off, on, not 'fast'"),
        ({"minutes": 0}, "minutes must be 1 or more, not 0"),
        ({"minutes": float("nan")}, "minutes must be 1 or more, not nan"),
        ({"power": 0.0}, "power must be above 0 and at most 1, not 0.0"),
        ({"weight": float("inf")}, "weight must be 0 or more, not inf"),
        ({"trays": ["a"]}, "trays must be a list of texts, not ['a']"),
        ({"heat": 3}, "unknown setting 'heat'; expected one of temperature, fan, minutes"),
        ({"fan": "on", "temperature": 220}, "fan on needs a temperature of at most 200"),
    ],
)
def test_invalid_value_names_the_setting(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        Oven(**values)
    assert str(error.value).startswith(complaint)


def test_invalid_positional_value_names_its_field() -> None:
    with pytest.raises(UsageError, match="fan must be one of off, on, not 'fast'") as error:
        Oven(100, "fast")  # type: ignore[arg-type]
    assert error.value.setting == "fan"


def test_settings_are_frozen_dataclasses() -> None:
    oven = Oven(100, minutes=2)
    assert isinstance(oven.minutes, float)
    assert replace(oven, temperature=120) == Oven(120, minutes=2.0)
    assert asdict(oven)["temperature"] == 100
    assert pickle.loads(pickle.dumps(oven)) == oven
    assert len({oven, Oven(100, minutes=2.0)}) == 1
    with pytest.raises(UsageError, match="temperature must be"):
        replace(oven, temperature=0)
    with pytest.raises(AttributeError):
        oven.temperature = 60  # type: ignore[misc]


def test_flatten_lists_nested_settings_and_shared_ones_once() -> None:
    settings = flatten_settings(Cake)
    assert list(settings) == ["temperature", "fan", "minutes", "trays", "power", "seed", "eggs", "name"]
    assert settings["temperature"].default == 160
    assert settings["temperature"].title == "oven"
    assert settings["eggs"].title == ""


def test_flat_values_round_trip() -> None:
    cake = build_settings(Cake, {"eggs": 2, "seed": 5, "fan": "on"})
    assert cake == Cake(oven=Oven(160, "on", seed=5), eggs=2, seed=5)
    assert flatten_values(cake) | {"weight": 0.0} == flatten_values(build_settings(Cake, flatten_values(cake)))


def test_skipped_settings_keep_their_defaults() -> None:
    assert build_settings(Cake, {"weight": 3.0}).oven.weight == 0.0


def test_error_spells_the_setting_as_the_user_did() -> None:
    with pytest.raises(UsageError, match="--temperature must be from 50 to 250, not 1"):
        build_settings(Cake, {"temperature": 1}, lambda name: f"--{name}")


def test_judge_settings_are_built_from_flat_values() -> None:
    config = build_settings(JudgeConfig, {"model": "m", "votes": 3, "image_max_pixels": 7, "seed": 2})
    assert (config.engine.model, config.engine.seed) == ("m", 2)
    assert (config.settings.votes, config.settings.media.image_max_pixels, config.settings.seed) == (3, 7, 2)
    assert flatten_settings(JudgeSettings)["order"].kind.choices == ("as_given", "random", "both", "rotations")
