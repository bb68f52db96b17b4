"""Settings from a TOML file: one table a command."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from deepme.config import (
    AttentionSettings,
    ClusterSettings,
    EvaluateSettings,
    ExpertSettings,
    ExportSettings,
    FlatSettings,
    GateSettings,
    MachineSettings,
    PredictSettings,
    RouteSettings,
    SelectSettings,
    SimilaritySettings,
    SplitSettings,
)
from deepme.errors import InputError
from deepme.settings import Settings, option_name
from deepme.storage.given import read_given
from deepme.text import clean, listing, suggestion

STAGES: tuple[type[Settings], ...] = (
    SimilaritySettings,
    ClusterSettings,
    SelectSettings,
    SplitSettings,
    FlatSettings,
    ExpertSettings,
    GateSettings,
    AttentionSettings,
    MachineSettings,
    EvaluateSettings,
    RouteSettings,
    ExportSettings,
    PredictSettings,
)


def load_toml(path: Path | None) -> dict[str, dict[str, Any]]:
    """Read a settings file: one table a command.

    Args:
        path: the TOML file, or None for no file.

    Returns:
        Section -> key -> value; keys spelled as the long options.

    Raises:
        InputError: unreadable, not TOML, or with an unknown table or key.
    """
    if path is None:
        return {}
    try:
        tables = tomllib.loads(read_given(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot read --config {clean(str(path))}: {clean(str(reason))}",
            "expected a TOML file with one table a command",
        ) from error
    known = {cls.section: cls for cls in STAGES}
    for name, table in tables.items():
        if name not in known or not isinstance(table, dict):
            raise InputError(
                f"{clean(str(path))} has a table or key [{clean(name)}], "
                f"expected tables named {', '.join(known)}",
                suggestion(name, known).strip(),
            )
        keys = [option_name(item) for item in fields(known[name])]
        unknown = [key for key in table if key.replace("_", "-") not in keys]
        if unknown:
            raise InputError(
                f"{clean(str(path))} sets unknown {listing(unknown)} in [{name}]",
                f"{suggestion(unknown[0], keys)}the settings of [{name}] are "
                f"{', '.join(keys)}",
            )
    return tables
