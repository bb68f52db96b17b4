"""Generate the built-in taxonomy: ``python -m deepme.wordnet.build NLTK_DATA_DIR``.

The folder must hold WordNet 3.0 as NLTK distributes it. The file is the same byte for
byte on every run with the same versions of deepme and HDF5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from deepme.wordnet import BUILTIN, save_taxonomy
from deepme.wordnet.nltk_reader import load_wordnet


def main() -> None:
    """Read the WordNet that the command line names and write it into the package."""
    parser = argparse.ArgumentParser(description="Generate the built-in taxonomy.")
    parser.add_argument("nltk_data", type=Path, help="folder with corpora/wordnet.zip")
    parser.add_argument("--out", type=Path, default=BUILTIN, help="file to write")
    options = parser.parse_args()
    taxonomy = load_wordnet(options.nltk_data)
    sha256 = save_taxonomy(options.out, taxonomy)
    print(
        f"{options.out}: {len(taxonomy):,} nouns of WordNet {taxonomy.version}, "
        f"depth {taxonomy.depth}, {options.out.stat().st_size:,} bytes, sha256 {sha256}"
    )


if __name__ == "__main__":
    main()
