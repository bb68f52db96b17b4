"""The built-in nouns, any WordNet through NLTK, and parity with NLTK's similarity."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from deepme.core.similarity import path_length_rows, theta_table
from deepme.core.taxonomy import Synset, Taxonomy, pack_taxonomy
from deepme.errors import ArtifactError, InputError
from deepme.wordnet import load_builtin, load_taxonomy, save_taxonomy
from deepme.wordnet.nltk_reader import load_wordnet

REFERENCE = Path(__file__).with_name("wordnet_reference.csv")


@pytest.fixture(scope="module")
def nltk_wordnet() -> Any:
    """WordNet 3.0 as NLTK itself loads it."""
    import nltk

    try:
        nltk.data.find("corpora/wordnet.zip")
    except LookupError:
        pytest.skip("NLTK's WordNet is not installed; NLTK_DATA can name its folder")
    wordnet = nltk.corpus.wordnet
    wordnet.ensure_loaded()
    return wordnet


def thetas(taxonomy: Taxonomy, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Our raw Θ of some pairs of wnids."""
    wnids = sorted({wnid for pair in pairs for wnid in pair})
    blocks = path_length_rows(taxonomy, taxonomy.index_of(wnids))
    path_lengths = np.concatenate([rows for _, rows in blocks])
    position = {wnid: i for i, wnid in enumerate(wnids)}
    at = [[position[a], position[b]] for a, b in pairs]
    table = theta_table(taxonomy.depth, formula="standard", scaled=False)
    return table[path_lengths[*np.transpose(at)]]


class TestBuiltin:
    def test_is_all_of_wordnet_3_0(self):
        taxonomy = load_builtin()
        assert len(taxonomy) == 82_115
        assert len(taxonomy.hypernym_index) == 84_427
        assert taxonomy.version == "3.0"
        assert taxonomy.depth == 19
        assert taxonomy.wnids(np.flatnonzero(taxonomy.levels == 0)) == ["n00001740"]

    def test_dog_has_its_names_and_both_hypernyms(self):
        taxonomy = load_builtin()
        (dog,) = taxonomy.index_of(["n02084071"])
        assert taxonomy.name(dog) == "dog"
        assert taxonomy.lemmas(dog) == ["dog", "domestic dog", "Canis familiaris"]
        hypernyms = [taxonomy.name(h) for h in taxonomy.hypernyms(dog)]
        assert hypernyms == ["domestic animal", "canine"]

    def test_instances_hang_below_their_hypernym(self):
        taxonomy = load_builtin()
        (einstein,) = taxonomy.index_of(["n10954498"])
        assert taxonomy.name(einstein) == "Einstein"
        assert [taxonomy.name(h) for h in taxonomy.hypernyms(einstein)] == ["physicist"]

    def test_is_loaded_once(self):
        assert load_builtin() is load_builtin()

    def test_equals_nltks_reference_pairs(self):
        rows = list(csv.DictReader(REFERENCE.read_text().splitlines()))
        ours = thetas(load_builtin(), [(r["wnid_a"], r["wnid_b"]) for r in rows])
        nltks = np.array([float(row["lch_similarity"]) for row in rows])
        assert len(rows) == 2_000
        assert np.abs(ours - nltks).max() <= 1e-12


class TestLiveNltk:
    def test_10_000_random_pairs_are_equal(self, nltk_wordnet):
        taxonomy, rng = load_builtin(), np.random.default_rng(0)
        wnids = taxonomy.wnids(rng.choice(len(taxonomy), 4_000, replace=False))
        pairs = [(wnids[a], wnids[b]) for a, b in rng.integers(4_000, size=(10_000, 2))]

        def synset(wnid: str) -> Any:
            return nltk_wordnet.synset_from_pos_and_offset("n", int(wnid[1:]))

        nltks = [synset(a).lch_similarity(synset(b)) for a, b in pairs]
        assert np.abs(thetas(taxonomy, pairs) - nltks).max() <= 1e-12

    def test_reader_gives_the_built_in_taxonomy(self, nltk_wordnet):
        import nltk

        archive = nltk.data.find("corpora/wordnet.zip/wordnet/").zipfile.filename
        read, builtin = load_wordnet(Path(archive).parents[1]), load_builtin()
        assert (read.version, read.text) == (builtin.version, builtin.text)
        for array in ("offsets", "text_ends", "hypernym_start", "hypernym_index"):
            np.testing.assert_array_equal(getattr(read, array), getattr(builtin, array))


class TestFile:
    TAXONOMY = pack_taxonomy(
        [Synset(1, ["café", "coffee_house"], []), Synset(3, ["bar"], [1])],
        version="9.9",
    )

    def test_keeps_everything(self, tmp_path):
        save_taxonomy(tmp_path / "a.h5", self.TAXONOMY)
        loaded = load_taxonomy(tmp_path / "a.h5")
        assert (loaded.version, loaded.depth) == ("9.9", 1)
        assert loaded.lemmas(0) == ["café", "coffee house"]
        assert loaded.hypernyms(1) == [0]

    def test_is_the_same_on_every_run(self, tmp_path):
        for name in ("a.h5", "b.h5"):
            save_taxonomy(tmp_path / name, self.TAXONOMY)
        assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()

    def test_damage_to_the_built_in_file_says_install_again(
        self, tmp_path, monkeypatch
    ):
        damaged = tmp_path / "nouns.h5"
        damaged.write_bytes(b"no seal")
        monkeypatch.setattr("deepme.wordnet.BUILTIN", damaged)
        with pytest.raises(ArtifactError, match="install deepme again"):
            load_builtin.__wrapped__()


COPYRIGHT = "  1 WordNet 9.9 Copyright 2026 by nobody  \n"
NOUNS = {"entity": [], "animal": ["@ entity"], "Rex": ["@i animal"]}


def write_wordnet(folder: Path) -> None:
    """Write a WordNet of three nouns in Princeton's format."""
    folder.mkdir(parents=True)
    (folder / "lexnames").write_text("00\tnoun.Tops\t1\n")
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text(COPYRIGHT)
        (folder / f"index.{part}").write_text(COPYRIGHT)
        (folder / f"{part}.exc").write_text("")
    offsets: dict[str, int] = {}
    with (folder / "data.noun").open("a") as data:
        for word, pointers in NOUNS.items():
            offsets[word] = data.tell()
            line = f"{offsets[word]:08d} 00 n 01 {word} 0 {len(pointers):03d} "
            for symbol, hypernym in map(str.split, pointers):
                line += f"{symbol} {offsets[hypernym]:08d} n 0000 "
            data.write(f"{line}| a gloss  \n")
    with (folder / "index.noun").open("a") as index:
        for word, offset in sorted(offsets.items()):
            index.write(f"{word.lower()} n 1 0 1 0 {offset:08d}  \n")


def zip_wordnet(corpora: Path) -> None:
    """Pack the same WordNet as NLTK's downloader leaves it."""
    write_wordnet(corpora / "wordnet")
    with ZipFile(corpora / "wordnet.zip", "w") as archive:
        for file in sorted((corpora / "wordnet").iterdir()):
            archive.write(file, f"wordnet/{file.name}")
            file.unlink()
    (corpora / "wordnet").rmdir()


class TestNltkReader:
    @pytest.mark.parametrize(
        ("place", "write"),
        [("", write_wordnet), ("corpora/wordnet", write_wordnet), ("", zip_wordnet)],
        ids=["bare", "nltk_data", "zip"],
    )
    def test_reads_each_layout(self, tmp_path, place, write):
        data = tmp_path / "data"
        write(data / "corpora" if write is zip_wordnet else data / place)
        taxonomy = load_wordnet(data)
        assert taxonomy.version == "9.9"
        assert taxonomy.depth == 2
        assert [taxonomy.name(i) for i in range(3)] == ["entity", "animal", "Rex"]
        assert [taxonomy.hypernyms(i) for i in range(3)] == [[], [0], [1]]

    def test_leaves_nltks_data_path_as_it_was(self, tmp_path):
        import nltk

        before = list(nltk.data.path)
        write_wordnet(tmp_path / "data")
        load_wordnet(tmp_path / "data")
        assert nltk.data.path == before

    def test_a_folder_without_wordnet(self, tmp_path):
        with pytest.raises(InputError, match=r"no WordNet in .*data\.noun"):
            load_wordnet(tmp_path)

    def test_a_missing_file_is_named(self, tmp_path):
        write_wordnet(tmp_path / "data")
        (tmp_path / "data" / "lexnames").unlink()
        with pytest.raises(InputError, match="lexnames"):
            load_wordnet(tmp_path / "data")

    def test_a_cut_file(self, tmp_path):
        write_wordnet(tmp_path / "data")
        index = tmp_path / "data" / "index.noun"
        index.write_bytes(index.read_bytes()[:-25])
        with pytest.raises(InputError, match="cannot read the WordNet"):
            load_wordnet(tmp_path / "data")

    def test_a_zip_that_is_none(self, tmp_path):
        (tmp_path / "corpora").mkdir()
        (tmp_path / "corpora" / "wordnet.zip").write_bytes(b"PK no")
        with pytest.raises(InputError, match="nor a readable"):
            load_wordnet(tmp_path)

    def test_a_cycle(self, tmp_path):
        write_wordnet(tmp_path / "data")
        data = tmp_path / "data" / "data.noun"
        text = data.read_text()
        animal, rex = (line[:8] for line in text.splitlines()[2:])
        assert text.count(f"@ {len(COPYRIGHT):08d}") == 1
        data.write_text(text.replace(f"@ {len(COPYRIGHT):08d}", f"@ {rex}"))
        assert animal in text
        with pytest.raises(InputError, match="form a cycle"):
            load_wordnet(tmp_path / "data")


def test_theta_of_a_synset_with_itself_is_log_2d():
    theta = thetas(load_builtin(), [("n02084071", "n02084071")])
    assert theta[0] == pytest.approx(math.log(2 * 19), abs=1e-15)
