"""Write wordnet_reference.csv: 2,000 pairs of nouns with NLTK's lch_similarity.

    NLTK_DATA=FOLDER python tests/make_wordnet_reference.py

The folder holds corpora/wordnet.zip (WordNet 3.0). Five kinds of pairs, 400 each.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nltk.corpus import wordnet

OUT = Path(__file__).with_name("wordnet_reference.csv")
PAIRS_A_KIND = 400


def main() -> None:
    """Draw the pairs, ask NLTK and write the table."""
    nouns = list(wordnet.all_synsets("n"))
    internal = [s for s in nouns if s.hyponyms()]
    instances = [s for s in nouns if s.instance_hypernyms()]
    merging = [s for s in nouns if len(s.hypernyms() + s.instance_hypernyms()) > 1]
    rng = random.Random(0)
    draw: Callable[[list[Any]], Any] = rng.choice
    pairs = []
    for _ in range(PAIRS_A_KIND):
        lower = draw(nouns)
        pairs += [
            (draw(nouns), draw(nouns)),
            (draw(internal), draw(internal)),
            (draw(instances), draw(nouns)),
            (draw(merging), draw(merging)),
            (lower, draw(draw(lower.hypernym_paths()))),
        ]
    with OUT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["wnid_a", "wnid_b", "lch_similarity"])
        for a, b in pairs:
            writer.writerow([wnid(a), wnid(b), repr(a.lch_similarity(b))])
    print(f"{OUT}: {len(pairs):,} pairs")


def wnid(synset: Any) -> str:
    """Write a noun's wnid."""
    return f"n{synset.offset():08d}"


if __name__ == "__main__":
    main()
