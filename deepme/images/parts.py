"""A split that the user has made: folders train, val and test, by timm's names."""

from __future__ import annotations

from pathlib import Path

from deepme.errors import InputError
from deepme.text import clean

_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "evaluation"),
    "test": ("test", "testing"),
}


def split_folders(root: Path) -> dict[str, str]:
    """Find the parts of a ready split.

    A folder for training beside one to evaluate on makes a split. Where there is only
    one to evaluate on, whatever its name, that is the test set.

    Args:
        root: the image folder, or a tar file, which has no parts.

    Returns:
        Folder -> train, val or test; empty where the folder is not split.

    Raises:
        InputError: two folders of one part.
        OSError: the folder cannot be listed.
    """
    if not root.is_dir():
        return {}
    parts: dict[str, str] = {}
    for part, names in _NAMES.items():
        found = [name for name in names if (root / name).is_dir()]
        if len(found) > 1:
            raise InputError(
                f"{clean(str(root))} has the folders {' and '.join(found)}, expected "
                f"one for {part}",
                "move one of them away",
            )
        parts |= dict.fromkeys(found, part)
    held_out = [folder for folder, part in parts.items() if part != "train"]
    if not held_out or len(held_out) == len(parts):
        return {}
    if len(held_out) == 1:
        parts[held_out[0]] = "test"
    return parts
