from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from deepme.artifacts.similarity import Similarity, load_similarity
from deepme.config import SimilaritySettings
from deepme.core.similarity import theta_table
from deepme.core.taxonomy import Synset, pack_taxonomy
from deepme.errors import InputError, UsageError
from deepme.steps import similarity as step
from deepme.workspace import Workspace

DOG, CAT, CAR = "n02084071", "n02121620", "n02958343"
DEPTH = 19
EDGES = 4
"""dog → canine → carnivore ← feline ← cat."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def run(
    workspace: Workspace, classes: object = "", *, matrix: object = "", **settings: str
) -> Similarity:
    path = step.run(
        SimilaritySettings(**settings),
        workspace,
        classes=str(classes),
        matrix=str(matrix),
    )
    assert path == workspace.similarity_path
    return load_similarity(path)


def write_list(folder: Path, *classes: str) -> Path:
    path = folder / "classes.txt"
    path.write_text("\n".join(classes))
    return path


class TestClassSources:
    def test_a_text_file(self, workspace, tmp_path):
        similarity = run(workspace, write_list(tmp_path, CAR, DOG, CAT))
        assert similarity.classes == (CAR, DOG, CAT)
        assert similarity.names == ("car", "dog", "cat")

    def test_an_image_folder(self, workspace, tiny_images):
        similarity = run(workspace, tiny_images)
        assert similarity.classes == tuple(
            sorted(p.name for p in tiny_images.iterdir())
        )

    def test_imagenet1k(self, workspace):
        similarity = run(workspace, "imagenet1k")
        assert len(similarity.classes) == 1000
        assert similarity.names[:2] == ("tench", "goldfish")
        assert similarity.theta().shape == (1000, 1000)

    def test_wordnet_is_every_noun_of_the_taxonomy(self, workspace, monkeypatch):
        synsets = [Synset(1, ["thing"], []), Synset(2, ["cup"], [1])]
        taxonomy = pack_taxonomy([*synsets, Synset(3, ["pot"], [1])], version="toy")
        monkeypatch.setattr(step, "load_chosen", lambda _: taxonomy)
        similarity = run(workspace, "wordnet")
        assert similarity.classes == ("n00000001", "n00000002", "n00000003")
        assert similarity.names == ("thing", "cup", "pot")


class TestTheta:
    def test_the_standard_formula_in_0_to_1_and_raw(self, workspace, tmp_path):
        theta = run(workspace, write_list(tmp_path, DOG, CAT)).theta()
        raw = -math.log((EDGES + 1) / (2 * DEPTH))
        expected = raw / math.log(2 * DEPTH)
        np.testing.assert_allclose(theta, [[1, expected], [expected, 1]], rtol=1e-7)
        with h5py.File(workspace.similarity_path) as file:
            assert file["path_length"][()].tolist() == [[0, EDGES], [EDGES, 0]]
            assert file["raw_theta_of_path_length"][EDGES] == pytest.approx(raw, 1e-15)

    def test_the_formula_as_printed(self, workspace, tmp_path):
        theta = run(workspace, write_list(tmp_path, DOG, CAT), formula="paper").theta()
        expected = -math.log(EDGES / DEPTH) / math.log(DEPTH)
        np.testing.assert_allclose(theta, [[0, expected], [expected, 0]], rtol=1e-7)

    def test_another_wordnet_is_asked_for_and_recorded(
        self, workspace, tmp_path, monkeypatch
    ):
        synsets = [Synset(1, ["thing"], []), Synset(2, ["cup"], [1])]
        asked: list[str] = []
        monkeypatch.setattr(
            step,
            "load_chosen",
            lambda folder: (
                asked.append(folder) or pack_taxonomy(synsets, version="9.9")
            ),
        )
        classes = write_list(tmp_path, "n00000001", "n00000002")
        similarity = run(workspace, classes, wordnet="some/folder")
        assert asked == ["some/folder"]
        settings = similarity.origin.header.settings
        assert settings["wordnet"] == str(Path.cwd() / "some/folder")
        assert settings["wordnet_version"] == "9.9"

    def test_a_wordnet_read_through_nltk_gives_the_same(self, workspace, tmp_path):
        import nltk

        try:
            archive = nltk.data.find("corpora/wordnet.zip")
        except LookupError:
            pytest.skip(
                "NLTK's WordNet is not installed; NLTK_DATA can name its folder"
            )
        folder = Path(str(archive).partition("corpora")[0])
        classes = write_list(tmp_path, DOG, CAT, CAR)
        builtin = run(workspace, classes).theta()
        similarity = run(workspace, classes, wordnet=str(folder))
        assert similarity.origin.header.settings["wordnet"] == str(folder)
        assert np.array_equal(similarity.theta(), builtin)


class TestOwnMatrix:
    LABELS = ("red brick", "blue brick", "cup")
    MATRIX = np.array([[1, 0.75, 0.25], [0.75, 1, 0], [0.25, 0, 1]])

    def assert_taken(self, similarity: Similarity) -> None:
        assert similarity.classes == similarity.names == self.LABELS
        assert similarity.theta_of_path_length is None
        assert np.array_equal(similarity.theta(), self.MATRIX)
        block = similarity.theta(np.array([0, 2]))
        assert np.array_equal(block, self.MATRIX[np.ix_([0, 2], [0, 2])])

    def test_its_medoid_is_most_similar_to_the_others(self, workspace, tmp_path):
        np.save(tmp_path / "own.npy", self.MATRIX)
        classes = write_list(tmp_path, *self.LABELS)
        similarity = run(workspace, classes, matrix=tmp_path / "own.npy")
        assert similarity.medoid(np.array([0, 1, 2])) == 0
        assert similarity.medoid(np.array([1, 2])) == 1
        assert similarity.medoid(np.array([2])) == 2
        assert np.array_equal(similarity.affinity(), self.MATRIX - np.eye(3))

    def test_as_csv(self, workspace, tmp_path):
        rows = [("", *self.LABELS)]
        rows += [(a, *row) for a, row in zip(self.LABELS, self.MATRIX, strict=True)]
        path = tmp_path / "own.csv"
        path.write_text("\n".join(",".join(map(str, row)) for row in rows))
        self.assert_taken(run(workspace, matrix=path))

    def test_as_npy_with_a_class_list(self, workspace, tmp_path):
        np.save(tmp_path / "own.npy", self.MATRIX)
        classes = write_list(tmp_path, *self.LABELS)
        self.assert_taken(run(workspace, classes, matrix=tmp_path / "own.npy"))

    def test_as_hdf5(self, workspace, tmp_path):
        with h5py.File(tmp_path / "own.h5", "w") as file:
            file["similarity"], file["label"] = self.MATRIX, list(self.LABELS)
        self.assert_taken(run(workspace, matrix=tmp_path / "own.h5"))


class TestRerun:
    def test_the_same_again_writes_nothing(self, workspace, tmp_path, capsys):
        classes = write_list(tmp_path, DOG, CAT)
        run(workspace, classes)
        before = workspace.similarity_path.stat().st_mtime_ns
        run(workspace, classes)
        assert workspace.similarity_path.stat().st_mtime_ns == before
        assert "is up to date" in capsys.readouterr().err

    @pytest.mark.parametrize("change", ["order", "formula"])
    def test_another_list_or_formula_is_computed_anew(
        self, workspace, tmp_path, change
    ):
        before = run(workspace, write_list(tmp_path, DOG, CAT)).origin.sha256
        if change == "order":
            after = run(workspace, write_list(tmp_path, CAT, DOG))
        else:
            after = run(workspace, tmp_path / "classes.txt", formula="paper")
        assert after.origin.sha256 != before

    def test_a_matrix_of_other_values_is_taken_anew(self, workspace, tmp_path):
        classes = write_list(tmp_path, "a", "b")
        for value in (0.25, 0.5):
            np.save(tmp_path / "own.npy", [[1, value], [value, 1]])
            similarity = run(workspace, classes, matrix=tmp_path / "own.npy")
            assert similarity.theta()[0, 1] == value


class TestRefusals:
    def test_neither_classes_nor_matrix(self, workspace):
        with pytest.raises(UsageError, match="none of --classes, --hierarchy and"):
            run(workspace)

    def test_unknown_wnid(self, workspace, tmp_path):
        with pytest.raises(InputError, match="n00000000"):
            run(workspace, write_list(tmp_path, DOG, "n00000000"))
        assert not workspace.similarity_path.exists()

    def test_the_table_of_theta_is_the_cores(self, workspace, tmp_path):
        similarity = run(workspace, write_list(tmp_path, DOG, CAT))
        expected = theta_table(DEPTH, formula="standard", scaled=True)
        assert np.array_equal(similarity.theta_of_path_length, expected)
