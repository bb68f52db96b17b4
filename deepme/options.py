"""From settings to command-line options, so that each is written down once.

A command declares a parameter of a settings class; `takes_settings` replaces it by
one option a field, plus ``--config``, and hands the command the finished object.
"""

from __future__ import annotations

import functools
import inspect
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepme.config import RECIPES
from deepme.config_file import load_toml
from deepme.errors import UsageError
from deepme.progress import Verbosity, detail, set_verbosity
from deepme.settings import Settings, allowed_range, option_name, resolve
from deepme.text import clean, suggestion

if TYPE_CHECKING:
    from deepme.workspace import Workspace

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="settings from a TOML file"),
]


Choice = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help="defaults: best (what does best on validation images) or paper (what the "
        "paper says); options and --config win over them",
    ),
]

Where = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="DEEPME_WORKSPACE",
        metavar="DIR",
        help="folder of the artifacts",
    ),
]
Matrix = Annotated[
    str,
    typer.Option(
        "--matrix",
        metavar="FILE",
        help="your own similarities, for classes outside WordNet: .csv, .h5, or "
        ".npy with --classes naming its labels",
    ),
]
Hierarchy = Annotated[
    str,
    typer.Option(
        "--hierarchy",
        metavar="FILE",
        help="your own hierarchy in place of WordNet: a CSV file of child,parent",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="only say what would be done, and why; nothing is written"
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="no progress, only warnings and errors")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="also say why things are made, and how long"),
]
HERE = Path("workspace")

Tables = Mapping[str, dict[str, Any]]
"""Section -> key -> value, as in a TOML file."""


def open_workspace(root: Path) -> Workspace:
    """The workspace of a folder that may not exist yet.

    Raises:
        UsageError: a file has its name.
    """
    from deepme.workspace import Workspace

    if root.exists() and not root.is_dir():
        raise UsageError(
            f"--workspace is {clean(str(root))}, a file; expected a folder"
        )
    return Workspace(root)


def listens(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--quiet`` and ``--verbose``.

    Args:
        command: any, `takes_settings` applied before.
    """
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def wrapper(*, quiet: bool, verbose: bool, **values: Any) -> None:
        choose_verbosity(quiet=quiet, verbose=verbose)
        started = time.monotonic()
        command(**values)
        detail(f"took {time.monotonic() - started:,.1f} s")

    added = (_keyword("quiet", Quiet, False), _keyword("verbose", Verbose, False))
    parameters = [*signature.parameters.values(), *added]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def choose_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Set how much is told, if the user has said so.

    Raises:
        UsageError: both are asked for.
    """
    if quiet and verbose:
        raise UsageError("--quiet and --verbose are given, expected one of them")
    if quiet or verbose:
        set_verbosity(Verbosity.QUIET if quiet else Verbosity.VERBOSE)


def seed_range(first: int, count: int) -> range:
    """The seeds of a comparison; a plan is made of each before anything is trained.

    Raises:
        UsageError: so many that the plans alone would fill the memory, or none.
    """
    for option, value, least, most in (
        ("--seeds", count, 1, 10_000),
        ("--first-seed", first, 0, 2**62),
    ):
        if not least <= value <= most:
            raise UsageError(
                f"{option} is {value}, expected ≥ {least} and ≤ {most:,}",
            )
    return range(first, first + count)


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of its settings parameters.

    Options win over the file of ``--config``, that over ``--recipe``, and that over the
    defaults. A setting
    that several of the classes share (the seed) is one option, told as in the first.

    Args:
        command: with at least one keyword-only parameter annotated with a subclass of
            `Settings`, or with a dataclass all of whose fields are.

    Returns:
        A function whose signature Typer turns into options.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    stages = {name: _stages(hint) for name, hint in hints.items() if _stages(hint)}
    plain = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in stages
    ]
    generated: dict[str, inspect.Parameter] = {}
    defaults: dict[str, set[Any]] = {}
    for cls in (cls for classes in stages.values() for cls in classes.values()):
        kinds = typing.get_type_hints(cls)
        for item in fields(cls):
            generated.setdefault(item.name, _parameter(item, kinds[item.name]))
            defaults.setdefault(item.name, set()).add(item.default)
            if len(defaults[item.name]) > 1:
                shared = _parameter(item, kinds[item.name], "each stage's own")
                generated[item.name] = shared
    sections = {cls.section for some in stages.values() for cls in some.values()}
    chooses = any(sections.intersection(recipe) for recipe in RECIPES.values())
    config = _keyword("config", Config, None)
    recipe = [_keyword("recipe", Choice, "best")] if chooses else []

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        given = {name: _parsed(name, values.pop(name)) for name in generated}
        tables = _over(
            _recipe(values.pop("recipe", "best")), load_toml(values.pop("config"))
        )
        for name, classes in stages.items():
            built = {
                field: resolve(
                    cls, tables, **{item.name: given[item.name] for item in fields(cls)}
                )
                for field, cls in classes.items()
            }
            values[name] = built.get("") or hints[name](**built)
        command(**values)

    parameters = [*plain, *generated.values(), *recipe, config]
    signature = inspect.Signature(parameters)
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _recipe(name: str) -> Tables:
    """The defaults of a recipe that are not the settings' own.

    Raises:
        UsageError: no such recipe.
    """
    if name not in RECIPES:
        raise UsageError(
            f"--recipe is {clean(name)}, expected one of {', '.join(RECIPES)}",
            suggestion(name, RECIPES).strip(),
        )
    return RECIPES[name]


def _over(below: Tables, above: Tables) -> Tables:
    """Tables with another's values in their place where that has some."""
    return {
        name: below.get(name, {}) | above.get(name, {}) for name in {*below, *above}
    }


def _stages(hint: Any) -> dict[str, type[Settings]]:
    """Field -> settings class of a recipe; a settings class alone has no field."""
    if not isinstance(hint, type):
        return {}
    if issubclass(hint, Settings):
        return {"": hint}
    kinds = typing.get_type_hints(hint) if is_dataclass(hint) else {}
    alone = all(_stages(kind).keys() == {""} for kind in kinds.values())
    return kinds if alone else {}


def _parameter(item: Field[Any], hint: Any, default: str = "") -> inspect.Parameter:
    """One field as an optional option; None stands for not given."""
    kind = str if typing.get_origin(hint) is tuple else _plain(hint)
    default = default or _shown(item.default)
    facts = [f"default: {default}" if default else "", allowed_range(item)]
    told = "; ".join(fact for fact in facts if fact)
    choices: tuple[str, ...] = item.metadata["choices"]
    name = option_name(item)
    if kind is bool:
        flags = typer.Option(
            f"--{name}/--no-{name}", help=item.metadata["help"], show_default=False
        )
        return _keyword(item.name, Annotated[bool | None, flags], None)
    option = typer.Option(
        f"--{name}",
        autocompletion=(lambda: list(choices)) if choices else None,
        help=f"{item.metadata['help']}{f'  [{told}]' if told else ''}",
        show_default=False,
        metavar={int: "N", float: "X", str: "TEXT"}[kind],
    )
    return _keyword(item.name, Annotated[kind | None, option], None)


def _plain(hint: Any) -> type:
    """The type of a value that may be None."""
    kinds = [
        kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)
    ]
    return kinds[0]  # type: ignore[no-any-return]


def _shown(default: Any) -> str:
    assert default is not MISSING, "every setting has a default"
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "" if default is None else str(default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _parsed(name: str, value: Any) -> Any:
    """Lists come as ``1,3,5``."""
    if name in ("topk", "grid_groups") and value is not None:
        return parse_numbers("--topk" if name == "topk" else "--grid-T", value)
    if name == "grid_delta" and value is not None:
        return _parse_floats("--grid-delta", value)
    if name == "fusion" and value is not None:
        return tuple(part.strip() for part in value.split(","))
    return value


def _parse_floats(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} is {clean(text)}, expected numbers as in 0.1,0.3"
        ) from None


def parse_numbers(option: str, text: str) -> tuple[int, ...]:
    """Read ``1-5,9`` as 1, 2, 3, 4, 5, 9.

    Args:
        option: the option's name, for the message.
        text: what the user wrote.

    Returns:
        The numbers in the order given, each once.

    Raises:
        UsageError: not numbers and ranges.
    """
    numbers: dict[int, None] = {}
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            span = range(int(first), int(last if dash else first) + 1)
            if not span or len(span) > 100_000:
                raise ValueError(part)
            numbers |= dict.fromkeys(span)
    except ValueError:
        raise UsageError(
            f"{option} is {clean(text)}, expected numbers and ranges as in 1-5,9"
        ) from None
    return tuple(numbers)
