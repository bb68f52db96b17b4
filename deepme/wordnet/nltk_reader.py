"""Any WordNet in Princeton's file format, read through NLTK."""

from __future__ import annotations

import warnings
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

from deepme.core.taxonomy import Synset, Taxonomy, pack_taxonomy
from deepme.errors import InputError
from deepme.text import clean

# What NLTK raised on 5,000 cut and altered files, besides its own WordNetError.
_DAMAGE = (
    AssertionError,
    BadZipFile,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    StopIteration,
    UserWarning,
    ValueError,
    zlib.error,
)


def load_wordnet(directory: Path) -> Taxonomy:
    """Read the nouns of a WordNet.

    Args:
        directory: an ``nltk_data`` folder (with ``corpora/wordnet`` or
            ``corpora/wordnet.zip``), or a WordNet's own folder (with ``data.noun``,
            ``index.noun`` and so on, and ``lexnames``).

    Returns:
        The taxonomy; its version is the one that the files name, else ``unknown``.

    Raises:
        InputError: no WordNet there, or one that NLTK cannot read.
    """
    from nltk.corpus.reader.wordnet import WordNetError

    root, entry = _find(directory)
    try:
        with ExitStack() as opened:
            reader = _open_reader(root, entry, opened)
            synsets = list(reader.all_synsets("n"))
            version = reader.get_version() or "unknown"
            return pack_taxonomy(map(_to_synset, synsets), version=version)
    except (*_DAMAGE, WordNetError) as error:
        reason = clean(str(error)) or type(error).__name__
        raise InputError(
            f"cannot read the WordNet in {clean(str(directory))}: {reason}",
            "NLTK needs data.* and index.* of all four parts of speech, *.exc and "
            "lexnames, unchanged",
        ) from error


def _find(directory: Path) -> tuple[Path, str]:
    """Locate the folder of the data files, or the zip file and the entry in it."""
    for folder in (directory, directory / "corpora" / "wordnet"):
        if (folder / "data.noun").is_file():
            return folder.resolve(), ""
    archive = directory / "corpora" / "wordnet.zip"
    if is_zipfile(archive):
        return archive.resolve(), "wordnet/"
    raise InputError(
        f"no WordNet in {clean(str(directory))}: found neither data.noun nor "
        "corpora/wordnet nor a readable corpora/wordnet.zip",
        "give an nltk_data folder, or the folder that holds data.noun",
    )


def _open_reader(root: Path, entry: str, opened: ExitStack) -> Any:
    """Make NLTK's reader of the files in `root`; they stay open as long as `opened`."""
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        def map_wn(self, version: str = "wordnet") -> None:
            """Leave out the map to WordNet 3.0, which needs that one installed."""

        def open(self, file: str) -> Any:
            """Have every file closed at the end, which NLTK leaves to chance."""
            return opened.enter_context(super().open(file))

    # NLTK reads only what lies below its data path.
    opened.callback(nltk.data.path.__setitem__, slice(None), list(nltk.data.path))
    nltk.data.path.insert(0, str(root.parent if entry else root))
    pointer = (
        nltk.data.ZipFilePathPointer(str(root), entry)
        if entry
        else nltk.data.FileSystemPathPointer(str(root))
    )
    # "No WordNet synset found" is a warning for NLTK: it would drop a hypernym.
    opened.enter_context(warnings.catch_warnings())
    warnings.simplefilter("error", UserWarning)
    warnings.filterwarnings("ignore", message="The multilingual functions")
    return Reader(pointer, None)


def _to_synset(synset: Any) -> Synset:
    above = synset.hypernyms() + synset.instance_hypernyms()
    return Synset(
        offset=synset.offset(),
        lemmas=synset.lemma_names(),
        hypernyms=[hypernym.offset() for hypernym in above],
    )
