"""How a setting is declared, checked and put together from options and TOML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from deepme.errors import UsageError
from deepme.text import clean, suggestion


def setting(
    default: Any,
    help: str,
    *,
    option: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a setting: default, one-line help, and the values it may take.

    Args:
        default: the default; None marks an optional value.
        help: one line for ``--help`` and the docs.
        option: the long option without dashes, where it is not the field's name.
        at_least: smallest allowed number.
        at_most: largest allowed number.
        above: exclusive lower bound.
        choices: the allowed words.
    """
    metadata = {
        "help": help,
        "option": option,
        "at_least": at_least,
        "at_most": at_most,
        "above": above,
        "choices": choices,
    }
    return field(default=default, metadata=metadata)


def option_name(item: Field[Any]) -> str:
    """The long option of a field, without its dashes; also its key in TOML."""
    return str(item.metadata["option"] or item.name.replace("_", "-"))


def allowed_range(item: Field[Any]) -> str:
    """Say in words what a field accepts, or nothing if anything goes."""
    meta = item.metadata
    if meta["choices"]:
        return "one of " + ", ".join(meta["choices"])
    bounds = [
        f"{word} {_number(meta[key])}"
        for key, word in (("above", ">"), ("at_least", "≥"), ("at_most", "≤"))
        if meta[key] is not None
    ]
    return " and ".join(bounds)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all settings share: the check on construction.

    Attributes:
        section: the table in a TOML file that holds them.
        falls_back_on: another table, whose values hold where this one has none.
    """

    section: ClassVar[str]
    falls_back_on: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Refuse the first value outside its range.

        Raises:
            UsageError: names option, value and allowed range.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not _is_allowed(value, item):
                raise UsageError(
                    f"--{option_name(item)} is {clean(str(value))}, "
                    f"expected {allowed_range(item)}",
                    suggestion(str(value), item.metadata["choices"]).strip(),
                )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


S = TypeVar("S", bound=Settings)


def _is_allowed(value: Any, item: Field[Any]) -> bool:
    meta = item.metadata
    if meta["choices"]:
        return value in meta["choices"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    low, high, above = meta["at_least"], meta["at_most"], meta["above"]
    return math.isfinite(value) and (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )


def resolve(cls: type[S], tables: Mapping[str, Mapping[str, Any]], **given: Any) -> S:
    """Build the settings of a stage: options over the TOML file over defaults.

    Args:
        cls: the stage's settings.
        tables: what `load_toml` returned.
        given: values from the command line; None means not given.

    Raises:
        UsageError: a value of the wrong type or outside its range.
    """
    from pydantic import TypeAdapter, ValidationError

    table = {**tables.get(cls.falls_back_on, {}), **tables.get(cls.section, {})}
    by_option = {key.replace("_", "-"): value for key, value in table.items()}
    values = {
        item.name: by_option[option_name(item)]
        for item in fields(cls)
        if option_name(item) in by_option
    }
    values |= {name: value for name, value in given.items() if value is not None}
    try:
        # Strict JSON: 3 is a float where one is wanted, yet true is no integer.
        text = json.dumps(values, default=str)
        return TypeAdapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        keys = {item.name: option_name(item) for item in fields(cls)}
        key = keys[str(first["loc"][0])]
        wanted = first["msg"].replace("tuple", "list").replace("array", "list")
        raise UsageError(
            f"[{cls.section}] {key} is {clean(repr(first['input']))}: {wanted}"
        ) from error
