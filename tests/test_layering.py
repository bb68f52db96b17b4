"""Imports point down only: the order of the house, as data, against the code.

A room is a module or a package directly below ``deepme``. A module may import rooms of
lower floors and its own package; rooms of one floor do not know each other.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deepme"

# From the ground up.
FLOORS = (
    ("deepme", "errors", "text"),
    ("core", "settings", "progress", "storage", "figures", "small_vgg", "torchrun"),
    ("config", "wordnet", "artifacts", "networks", "ranks"),
    ("workspace", "images", "devices", "config_file", "systems", "taxonomies"),
    ("inference", "measuring", "recipe", "verifying"),
    ("asking",),
    ("outputs",),
    ("training",),
    ("scoring", "affinity", "costs", "mixture", "status"),
    ("calibrating",),
    ("classifier",),
    ("hub", "model_card", "onnx_graph"),
    ("steps",),
    ("experts", "interface", "placing", "reporting"),
    ("extending", "pipeline", "planning", "predicting", "rehearsal"),
    ("demo", "comparison"),
    ("comparison_rehearsal",),
    ("options", "tables", "prediction_tables", "cli_errors"),
    ("extension_tables", "status_tables"),
    ("cli_whole", "cli_beside"),
    ("cli",),
    ("__main__",),
)

# Packages whose modules do not know each other either.
STRANGERS = ("steps",)

# Rooms that know less than their floor allows.
KNOWS = {"config": ("settings", "errors", "text"), "figures": ("text",)}

# Who may import what is heavy, or belongs to one task only.
KEEPERS = {
    "timm": ("networks", "small_vgg", "training.record"),
    "torchvision": ("images.reading", "networks", "training.record"),
    "nltk": ("wordnet.nltk_reader",),
    "typer": ("cli", "cli_beside", "cli_errors", "cli_whole", "options"),
    "rich": ("progress", "tables"),
    "matplotlib": ("figures", "steps.plot_accuracy", "steps.route", "steps.select"),
    "filelock": ("workspace",),
    "jinja2": ("reporting.page",),
    "safetensors": ("storage.tensors",),
    "h5py": ("storage", "artifacts", "wordnet", "images.matrices"),
    "torch": (
        *("calibrating", "classifier", "core", "devices", "experts", "hub"),
        *("images.loading", "inference", "mixture", "networks", "onnx_graph"),
        *("asking", "images.reading", "images.views"),
        *("measuring", "predicting", "ranks", "scoring", "small_vgg", "steps"),
        *("storage.tensors", "training"),
    ),
}

# core/ is pure: arrays in, arrays out.
IMPURE = ("io", "logging", "os", "pathlib", "random", "shutil", "subprocess", "sys")

Imports = dict[str, set[str]]


def read_imports(package: Path) -> Imports:
    """Module -> what it imports anywhere in its text, both without ``deepme.``."""
    paths = sorted(package.rglob("*.py"))
    modules = {_module(path.relative_to(package)): path for path in paths}
    return {
        name: {
            target.removeprefix("deepme.")
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            for target in _targets(node, set(modules))
        }
        for name, path in modules.items()
    }


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "deepme"


def _targets(node: ast.AST, modules: set[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, "imports are absolute"
    assert node.module
    names = [f"{node.module}.{alias.name}" for alias in node.names]
    # `from deepme.steps import cluster` names a module, most others name its content.
    return [
        name if name.removeprefix("deepme.") in modules else node.module
        for name in names
    ]


def _room(module: str) -> str:
    return module.split(".")[0]


def _is_below(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def wrong_directions(imports: Imports) -> list[str]:
    """Imports that point sideways or up."""
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    homeless = [module for module in imports if _room(module) not in floor_of]
    assert not homeless, f"give {homeless} a floor in FLOORS"
    found = []
    for module, targets in imports.items():
        room = _room(module)
        for target in sorted(targets & imports.keys()):
            at_home = _room(target) == room and room not in STRANGERS
            same_package = target == room
            lower = floor_of[_room(target)] < floor_of[room]
            lower &= _room(target) in KNOWS.get(room, floor_of)
            if not (at_home or same_package or lower):
                found.append(f"{module} imports {target}")
    return found


def strange_keepers(imports: Imports) -> list[str]:
    """Imports of a library by a module that has no business with it."""
    return [
        f"{module} imports {target}"
        for module, targets in imports.items()
        for target in sorted(targets)
        if target.split(".")[0] in KEEPERS and target not in imports
        if not _is_below(module, KEEPERS[target.split(".")[0]])
    ]


@pytest.fixture(scope="module")
def imports() -> Imports:
    return read_imports(PACKAGE)


def test_imports_point_down(imports: Imports) -> None:
    assert len(imports) > 50
    assert wrong_directions(imports) == []


def test_libraries_have_their_keepers(imports: Imports) -> None:
    assert strange_keepers(imports) == []


def test_core_touches_no_file(imports: Imports) -> None:
    impure = {
        module: targets & set(IMPURE)
        for module, targets in imports.items()
        if _room(module) == "core" and targets & set(IMPURE)
    }
    assert impure == {}


def test_every_floor_is_in_use(imports: Imports) -> None:
    rooms = {_room(module) for module in imports}
    assert {room for floor in FLOORS for room in floor} == rooms


@pytest.mark.parametrize(
    ("module", "text", "wrong"),
    [
        ("steps/cluster.py", "from deepme.steps import split", "steps.split"),
        ("steps/cluster.py", "import deepme.steps.split", "steps.split"),
        ("core/text.py", "from deepme.config import X", "config"),
        ("text.py", "def f():\n    from deepme.config import X", "config"),
        ("config.py", "from deepme.core.text import X", "core.text"),
        ("artifacts/split.py", "from deepme.workspace import W", "workspace"),
    ],
)
def test_the_rule_can_fail(tmp_path: Path, module: str, text: str, wrong: str) -> None:
    package = tmp_path / "deepme"
    for name in (
        *("__init__", "text", "config", "workspace", "core/text"),
        *("artifacts/split", "steps/__init__", "steps/split", "steps/cluster"),
    ):
        (package / name).with_suffix(".py").parent.mkdir(parents=True, exist_ok=True)
        (package / name).with_suffix(".py").touch()
    assert wrong_directions(read_imports(package)) == []
    (package / module).write_text(text)
    importer = module.removesuffix(".py").replace("/", ".")
    assert wrong_directions(read_imports(package)) == [f"{importer} imports {wrong}"]


def test_the_keepers_can_fail() -> None:
    wrong = {"images.index": {"timm", "torch.nn"}, "networks": {"timm"}}
    assert strange_keepers(wrong) == [
        "images.index imports timm",
        "images.index imports torch.nn",
    ]
