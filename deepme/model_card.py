"""The README.md of an exported model: what it knows, how well, and where it ends."""

from __future__ import annotations

import json
from dataclasses import dataclass

from deepme.artifacts.evaluation import EvaluationContent
from deepme.classifier import Classifier
from deepme.text import clean, counted

SHOWN = 4
"""Classes of a group that the table names."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the card says beside the classes.

    Attributes:
        fusion: gate, attention, flat or expert.
        backbones: timm names of the networks, the gate's last.
        licence: as hubs name it.
        images: train, val and test -> how many.
        group: name of the group, for an expert.
        evaluation: of this system on the test images, if there is one.
        command: that measures it.
    """

    fusion: str
    backbones: tuple[str, ...]
    licence: str
    images: dict[str, int]
    group: str
    evaluation: EvaluationContent | None
    command: str


_KINDS = {
    "gate": "a mixture of {n}, and a gate that says how far to trust each",
    "attention": "{n} whose features one head sees, weighed by attention",
    "flat": "one network over all classes",
    "expert": "one expert, which knows the classes of its group alone",
}


def write_card(classifier: Classifier, facts: Facts) -> str:
    """Write the card, with the front matter that hubs read.

    Args:
        classifier: what is exported.
        facts: about its training and its accuracy.

    Returns:
        Markdown.
    """
    sections = [
        _front_matter(facts),
        _summary(classifier, facts),
        _use(classifier),
        _classes(classifier),
        _training(facts),
        _accuracy(facts),
        _limits(classifier, facts),
    ]
    return "\n".join(sections)


def _front_matter(facts: Facts) -> str:
    lines = [
        "---",
        # JSON is YAML, so that no licence name of theirs can be anything but text.
        f"license: {json.dumps(facts.licence)}",
        "library_name: deepme",
        "pipeline_tag: image-classification",
        "tags:",
        "- image-classification",
        "- mixture-of-experts",
        "metrics:",
        "- accuracy",
        "---",
        "",
    ]
    return "\n".join(lines)


def _summary(classifier: Classifier, facts: Facts) -> str:
    number = len(classifier.groups) or len(facts.backbones)
    kind = _KINDS[facts.fusion].format(n=counted(number, "expert"))
    of = f" ({_plain(facts.group)})" if facts.group else ""
    networks = ", ".join(dict.fromkeys(facts.backbones))
    return (
        f"# Image classifier of {counted(len(classifier.classes), 'class')}{of}\n\n"
        f"Made with deepme: {kind}. Backbone: "
        f"{_plain(networks)}, {classifier.image_size} × {classifier.image_size} "
        "pixels. The method is *DeepME: Deep Mixture Experts for Large-scale Image "
        "Classification* (He et al., IJCAI 2021).\n"
    )


def _use(classifier: Classifier) -> str:
    return (
        "## Use\n\n"
        "```python\n"
        "import deepme\n"
        "from PIL import Image\n\n"
        'model = deepme.load("FOLDER")  # the folder of this file\n'
        'images = model.transform(Image.open("picture.jpg"))[None]\n'
        "probabilities = model(images).softmax(dim=1)[0]\n"
        "print(model.classes[probabilities.argmax()])\n"
        "```\n\n"
        f"Input: (batch, 3, {classifier.image_size}, {classifier.image_size}) uint8, "
        "RGB, the centre square of 7/8 of the shorter side. Output: logits.\n"
    )


def _classes(classifier: Classifier) -> str:
    names = dict(classifier.classes)
    text = "## Classes\n\n"
    if not classifier.groups:
        shown = ", ".join(_plain(each.name) for each in classifier.classes[:20])
        more = " and more" if len(classifier.classes) > 20 else ""
        return f"{text}{shown}{more}; all of them are in `config.json`.\n"
    text += "| group | name | classes | among them |\n|---|---|---|---|\n"
    for group in classifier.groups:
        step = max(1, len(group.classes) // SHOWN)
        some = ", ".join(names[label] for label in group.classes[::step][:SHOWN])
        text += (
            f"| {group.number} | {_plain(group.name)} | {len(group.classes):,} | "
            f"{_plain(some)} |\n"
        )
    return text


def _training(facts: Facts) -> str:
    counts = ", ".join(f"{count:,} {name}" for name, count in facts.images.items())
    return f"## Data\n\nImages of these classes: {counts}.\n"


def _accuracy(facts: Facts) -> str:
    found = facts.evaluation
    text = "## Accuracy\n\n"
    if found is None:
        return f"{text}Not measured; `{facts.command}` does.\n"
    text += (
        f"On {counted(found.images, 'test image')} of "
        f"{counted(found.classes_tested, 'class')}, by `{facts.command}`:\n\n"
        "| rank | mean over classes | share of images |\n|---|---|---|\n"
    )
    for k in found.macro:
        text += f"| top-{k} | {found.macro[k]:.1%} | {found.micro[k]:.1%} |\n"
    error = found.calibrated_error
    shown = found.calibration_error if error is None else error
    return f"{text}\nExpected calibration error (15 bins): {shown:.1%}.\n"


def _limits(classifier: Classifier, facts: Facts) -> str:
    lines = [
        "- It names one of its classes for any image, also for one that shows none.",
        "- Accuracy and probabilities hold for images like those it was trained on.",
    ]
    if facts.fusion == "expert":
        lines.append("- Its probabilities are not calibrated.")
    found = facts.evaluation
    worst = [each for each in (found.groups if found else ()) if each.system]
    if found and worst and "1" in found.macro and classifier.groups:
        least = min(worst, key=lambda each: each.system["1"])
        lines.append(
            f"- It is weakest in group {least.number}, {_plain(least.name)}: "
            f"{least.system['1']:.1%} top-1, mean over its classes."
        )
    return "## Limits\n\n" + "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    r"""A text of theirs that is no Markdown and no HTML."""
    text = clean(text)
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return text
