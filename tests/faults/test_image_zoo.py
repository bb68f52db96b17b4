"""Forty kinds of image file: decoded, or listed with path and reason."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from hostile import misdeeds, watched
from PIL import Image
from tally import Tally, one_error
from world import World

from deepme.artifacts.expert import load_training
from deepme.images.reading import UnreadableImage, decode

TIER = "image zoo"
CLASS = "n02084071"


def neighbour() -> ModuleType:
    """The fixtures of the quick test."""
    path = Path(__file__).parents[1] / "images" / "test_reading.py"
    spec = importlib.util.spec_from_file_location("reading_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def animated(form: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue", "green")]
    frames[0].save(file, form, save_all=True, append_images=frames[1:])
    return file.getvalue()


def more(zoo: ModuleType) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What the quick test has not: decoded ones, refused ones."""
    jpeg, encode, noise = zoo.encode(zoo.noise(), "JPEG"), zoo.encode, zoo.noise
    good = {f"turned {way}": zoo.turned(way, "JPEG") for way in range(1, 9)}
    good |= {
        "animated WEBP": animated("WEBP"),
        "progressive JPEG": encode(noise(), "JPEG", progressive=True),
        "JPEG with a broken colour profile": encode(
            noise(), "JPEG", icc_profile=b"not one"
        ),
        "JPEG with bytes behind its end": jpeg + b"\0" * 100,
        "16-bit grey": encode(Image.new("I;16", (5, 4), 40_000)),
        "1 × 20,000": encode(Image.new("RGB", (1, 20_000))),
    }
    bad = {
        "truncated progressive JPEG": encode(noise(), "JPEG", progressive=True)[:-300],
        "truncated WEBP": encode(noise(), "WEBP", lossless=True)[:-200],
        "truncated BMP": encode(noise(), "BMP")[:-200],
        "PSD": b"8BPS\0\1" + b"\0" * 40,
        "FITS": b"SIMPLE  =                    T" + b" " * 2850,
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        "PDF": b"%PDF-1.4\n" + b"\0" * 100,
        "an empty zip file": b"PK\5\6" + b"\0" * 18,
    }
    return good, bad


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_zoo(world: World, tally: Tally, tmp_path: Path) -> None:
    zoo = neighbour()
    good, bad = more(zoo)
    good |= {name: make() for name, (make, *_) in zoo.DECODED.items()}
    bad |= {name: make() for name, (make, _) in zoo.REFUSED.items()}
    files: dict[str, str] = {}
    images = tmp_path / "images"
    for folder in world.images.iterdir():
        for path in folder.iterdir():
            target = images / folder.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    for number, (name, raw) in enumerate({**good, **bad}.items()):
        path = images / CLASS / f"zoo-{number:02d}.jpg"
        path.write_bytes(raw)
        files[name] = f"{CLASS}/{path.name}"
    root = tmp_path / "workspace"
    arguments = ("--classes", images, "-w", root)
    assert watched("similarity", *arguments, inside=tmp_path).code == 0
    scan = ("split", "--data", images, "--scan", "--json", "--test", "0")
    end = watched(*scan, "--workers", "0", "-w", root, inside=tmp_path)
    listed = listed_by(end.output, images)
    for name, path in files.items():
        raw = (images / path).read_bytes()
        fits = (path not in listed) if name in good else bool(listed.get(path))
        tally.case(
            name,
            decoded(raw) if name in good else refused(raw),
            "" if fits else f"the scan says of it: {listed.get(path)}",
            output=end.output if not fits else "",
        )
    tally.case(
        "the scan", one_error(end, 0), misdeeds(end),
        "" if set(listed) == {files[name] for name in bad} else f"{sorted(listed)}",
        output=end.output,
    )  # fmt: skip
    trained(world, tally, tmp_path, len(bad))
    tally.figures |= {"decoded": len(good), "listed": len(bad)}


def listed_by(output: str, images: Path) -> dict[str, str]:
    """Path and reason of the bad images that ``split --scan --json`` names."""
    assert "{" in output, output
    start, stop = output.index("{"), output.rindex("}") + 1
    named = json.loads(output[start:stop])["unreadable"]
    return {Path(path).relative_to(images).as_posix(): why for path, why in named}


def decoded(raw: bytes) -> str:
    try:
        return "" if decode(raw).mode == "RGB" else "not RGB"
    except UnreadableImage as error:
        return f"refused: {error}"


def refused(raw: bytes) -> str:
    try:
        decode(raw)
    except UnreadableImage as error:
        return "" if str(error) else "no reason"
    return "decoded"


def trained(world: World, tally: Tally, folder: Path, bad: int) -> None:
    """A training stops at the first, or goes on without any of them and lists them."""
    place = ("--config", world.config, "-w", folder / "workspace")
    assert watched("cluster", *place, inside=folder).code == 0
    train = ("train-expert", "--group", "all", *place)
    stop = watched(*train, inside=folder)
    tally.case("stop", one_error(stop, 2), misdeeds(stop), output=stop.output)
    skip = watched(*train, "--on-bad", "skip", "--max-bad", "0.9", inside=folder)
    skipped = [
        path
        for file in (folder / "workspace" / "experts").glob("*/training.json")
        for path, _ in load_training(file).training.skipped
    ]
    problem = "" if 0 < len(skipped) <= bad else f"{len(skipped)} were skipped"
    tally.case("skip", one_error(skip, 0), misdeeds(skip), problem, output=skip.output)
