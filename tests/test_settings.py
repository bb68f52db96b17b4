"""Settings: what each may be, how it is refused, and how a file and options combine."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, ClassVar

import pytest

from deepme.config import (
    FUSIONS,
    ClusterSettings,
    EvaluateSettings,
    ExportSettings,
    PredictSettings,
    SplitSettings,
)
from deepme.config_file import STAGES
from deepme.errors import UsageError
from deepme.settings import (
    Settings,
    allowed_range,
    option_name,
    resolve,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class Oven(Settings):
    section: ClassVar[str] = "oven"

    minutes: int = setting(30, "how long", at_least=1, at_most=600)
    heat: float = setting(180.0, "degrees", above=0)
    rack: str = setting("middle", "where", choices=("top", "middle"))
    fan_speed: float | None = setting(None, "if any", option="fan", at_least=0)


BOUNDED = [
    pytest.param(cls, item, id=f"{cls.section}-{item.name}")
    for cls in STAGES
    for item in fields(cls)
    if allowed_range(item)
]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minutes": 0}, "--minutes is 0, expected ≥ 1 and ≤ 600"),
        ({"minutes": 601}, "--minutes is 601, expected ≥ 1 and ≤ 600"),
        ({"heat": 0.0}, "--heat is 0.0, expected > 0"),
        ({"heat": math.nan}, "--heat is nan, expected > 0"),
        ({"heat": math.inf}, "--heat is inf, expected > 0"),
        ({"rack": "low"}, "--rack is low, expected one of top, middle"),
        ({"rack": "\x1b[2J"}, "--rack is \\x1b[2J, expected one of top, middle"),
        ({"fan_speed": -1.0}, "--fan is -1.0, expected ≥ 0"),
    ],
)
def test_a_value_outside_its_range_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        Oven(**given)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "given",
    [
        {"minutes": 1},
        {"minutes": 600},
        {"heat": 5e-324},
        {"rack": "top"},
        {"fan_speed": 0.0},
        {"fan_speed": None},
    ],
)
def test_the_ends_of_a_range_belong_to_it(given: dict[str, Any]) -> None:
    (name, value), *_ = given.items()
    assert getattr(Oven(**given), name) == value


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Oven().minutes = 5  # type: ignore[misc]


def test_option_names() -> None:
    assert [option_name(item) for item in fields(Oven)] == [
        *("minutes", "heat", "rack", "fan")
    ]
    assert option_name(fields(ClusterSettings)[1]) == "T"


@pytest.mark.parametrize("cls", STAGES)
def test_defaults_are_allowed_and_plain_json(cls: type[Settings]) -> None:
    values = cls().to_dict()
    assert list(values) == [item.name for item in fields(cls)]
    assert json.loads(json.dumps(values)) == values


@pytest.mark.parametrize("cls", STAGES)
def test_every_setting_has_help_and_a_name_of_its_own(cls: type[Settings]) -> None:
    assert all(item.metadata["help"] for item in fields(cls))
    names = [option_name(item) for item in fields(cls)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("cls", "item"), BOUNDED)
def test_every_bound_holds(cls: type[Settings], item: Any) -> None:
    meta = item.metadata
    outside: list[Any] = ["neither of them"] if meta["choices"] else [math.nan]
    for name, step in (("at_least", -1), ("at_most", 1), ("above", 0)):
        if meta[name] is not None:
            outside.append(meta[name] + step)
    for value in outside:
        with pytest.raises(UsageError, match=rf"^--{option_name(item)} is "):
            cls(**{item.name: value})


def test_shares_leave_something_to_train_on() -> None:
    assert SplitSettings(val=0.5, test=0.49).test == 0.49
    with pytest.raises(UsageError, match="nothing to train on"):
        SplitSettings(val=0.5, test=0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"topk": ()}, "--topk is .*expected different ranks"),
        ({"topk": (1, 0)}, "--topk is .*expected different ranks"),
        ({"fusion": ()}, "--fusion is .*expected one or more of gate, equal"),
        ({"fusion": ("gate", "magic")}, "--fusion is gate, magic, expected one or"),
        (
            {"fusion": ("flat", "equal"), "route_top": 2},
            "--route-top 2 has the gate choose .* but with --fusion flat,equal no gate",
        ),
    ],
)
def test_ranks_and_fusions(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EvaluateSettings(**given)
    assert EvaluateSettings(topk=(2,), fusion=FUSIONS).fusion == FUSIONS
    assert EvaluateSettings(fusion=("flat", "gate"), route_top=2).route_top == 2


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (PredictSettings, {"answer_by": "flat", "route_least": 0.1}, "--fusion flat"),
        (ExportSettings, {"answer_by": "attention", "route_top": 1}, "--fusion att"),
        (ExportSettings, {"only": 2, "route_top": 1}, "but with --group 2 no gate"),
        (ExportSettings, {"only": 2, "answer_by": "flat"}, "--group 2 asks one expert"),
    ],
)
def test_what_does_not_go_together(
    settings: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        settings(**given)


def test_options_win_over_the_file_and_that_over_the_defaults() -> None:
    tables = {"oven": {"minutes": 20, "heat": 200, "fan": 3}, "stove": {"minutes": 1}}
    settings = resolve(Oven, tables, minutes=10, heat=None)
    assert settings == Oven(minutes=10, heat=200.0, fan_speed=3.0)


def test_keys_of_a_file_may_have_underscores() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Pot(Settings):
        section: ClassVar[str] = "pot"
        lid_on: int = setting(0, "on")

    for key in ("lid-on", "lid_on"):
        assert resolve(Pot, {"pot": {key: 1}}) == Pot(lid_on=1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"minutes": "soon"}, r"\[oven\] minutes is 'soon'"),
        ({"minutes": 2.5}, r"\[oven\] minutes is 2.5"),
        ({"minutes": [3]}, r"\[oven\] minutes is \[3\]"),
        ({"heat": {}}, r"\[oven\] heat is {}"),
        ({"rack": 3}, r"\[oven\] rack is 3"),
        ({"minutes": 0}, "--minutes is 0, expected ≥ 1 and ≤ 600"),
    ],
)
def test_a_file_with_a_wrong_value_is_refused(table: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(Oven, {"oven": table})
