"""What predict prints: text as the images are done, or CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from deepme.text import clean, counted

if TYPE_CHECKING:
    from deepme.predicting import Label, Prediction


def print_predictions(predictions: Iterable[Prediction]) -> None:
    """Print each image as it is done: its guesses, and the experts that were asked."""
    for prediction in predictions:
        print(clean(prediction.path))
        if prediction.answer:
            print(f"{_guess(prediction.answer)}{_above(prediction)}")
        for label in prediction.labels:
            print(_guess(label))
        for voice in prediction.experts:
            print(f"    {voice.weight:6.1%}  expert {voice.group} {clean(voice.name)}")
            for label in voice.labels:
                print(f"          {_guess(label)}")


def _guess(label: Label) -> str:
    path = f"  {clean(' > '.join(label.path))}" if label.path else ""
    named = f"{clean(label.name)}  ({clean(label.label)})"
    return f"  {label.probability:6.1%}  {named}{path}"


def _above(prediction: Prediction) -> str:
    """How far an answer is from the best guess."""
    if not prediction.steps:
        return "  sure enough"
    name = clean(prediction.labels[0].name)
    return f"  sure enough, {counted(prediction.steps, 'step')} above {name}"


def print_csv(predictions: Iterable[Prediction]) -> None:
    """Print one line a guess, with a header; the answer of --backoff has rank 0."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    header = ("path", "rank", "class", "name", "probability", "ancestors")
    writer.writerow(header)
    for prediction in predictions:
        ranked = list(enumerate(prediction.labels, start=1))
        if prediction.answer:
            ranked.insert(0, (0, prediction.answer))
        for rank, label in ranked:
            texts = (prediction.path, str(rank), label.label, label.name)
            row = [_cell(text) for text in texts]
            path = _cell(" > ".join(label.path))
            writer.writerow([*row, f"{label.probability:.6f}", path])


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    text = clean(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
