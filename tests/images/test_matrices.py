from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from deepme.errors import InputError
from deepme.images.matrices import read_matrix

LABELS = ["sparrow", "crow", "whale"]
MATRIX = np.array([[1, 0.5, 0.25], [0.5, 1, 0.125], [0.25, 0.125, 1]])


def write_csv(path: Path, labels: list[str], matrix: NDArray[np.float64]) -> Path:
    rows = [["", *labels], *([a, *map(str, row)] for a, row in zip(labels, matrix))]  # noqa: B905
    path.write_text("\n".join(",".join(row) for row in rows) + "\n", "utf-8")
    return path


def write_npy(path: Path, matrix: object) -> tuple[Path, str]:
    np.save(path, matrix)
    labels = path.with_suffix(".txt")
    labels.write_text("\n".join(LABELS))
    return path, str(labels)


def write_hdf5(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


class TestFormats:
    def test_csv_has_labels_in_row_and_column(self, tmp_path):
        path = write_csv(tmp_path / "own.csv", LABELS, MATRIX)
        labels, matrix = read_matrix(path, "")
        assert labels == LABELS
        assert matrix.dtype == np.float32
        assert_array_equal(matrix, MATRIX)

    def test_csv_as_a_spreadsheet_writes_it(self, tmp_path):
        """A byte order mark, quoted labels with commas, Windows line ends."""
        path = tmp_path / "own.csv"
        path.write_bytes(b'\xef\xbb\xbf,"a, b",c\r\n"a, b",1,0.5\r\nc,0.5,1\r\n')
        labels, matrix = read_matrix(path, "")
        assert labels == ["a, b", "c"]
        assert matrix.tolist() == [[1, 0.5], [0.5, 1]]

    def test_npy_takes_its_labels_from_a_class_list(self, tmp_path):
        path, classes = write_npy(tmp_path / "own.npy", MATRIX)
        labels, matrix = read_matrix(path, classes)
        assert labels == LABELS
        assert_array_equal(matrix, MATRIX)

    @pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
    @pytest.mark.parametrize("labels", [LABELS, np.array(LABELS, dtype="S")])
    def test_hdf5_has_similarity_and_label(self, tmp_path, suffix, labels):
        path = tmp_path / f"own{suffix}"
        write_hdf5(path, similarity=MATRIX, label=labels)
        found, matrix = read_matrix(path, "")
        assert found == LABELS
        assert_array_equal(matrix, MATRIX)

    def test_labels_may_be_any_text(self, tmp_path):
        names = ["Gämse", "雀", "crow"]
        _, from_csv = read_matrix(write_csv(tmp_path / "own.csv", names, MATRIX), "")
        path = write_hdf5(tmp_path / "own.h5", similarity=MATRIX, label=names)
        labels, from_hdf5 = read_matrix(path, "")
        assert labels == names
        assert_array_equal(from_csv, from_hdf5)

    def test_rounding_in_the_last_digit_is_symmetric_enough(self, tmp_path):
        path, classes = write_npy(
            tmp_path / "own.npy", MATRIX + np.triu(MATRIX) * -1e-8
        )
        read_matrix(path, classes)


def changed(row: int, column: int, value: float) -> NDArray[np.float64]:
    matrix = MATRIX.copy()
    matrix[row, column] = matrix[column, row] = value
    return matrix


class TestRefusals:
    @pytest.mark.parametrize(
        ("matrix", "message"),
        [
            (
                MATRIX[:2],
                r"float64 of shape \(2, 3\), expected numbers of shape \(3, 3\)",
            ),
            (MATRIX[:2, :2], r"of shape \(2, 2\), expected numbers of shape \(3, 3\)"),
            (MATRIX.astype(complex), "holds complex128 of shape"),
            (changed(0, 1, np.nan), "holds values from nan to nan, expected"),
            (changed(0, 1, -0.1), r"holds values from -0.1 to 1, expected .* \[0, 1\]"),
            (changed(0, 1, 1.5), r"holds values from 0.125 to 1.5, expected"),
            (MATRIX * 1e300, "holds values from"),
            (np.triu(MATRIX), r"is not symmetric; use \(S \+ Sᵀ\) / 2"),
            (np.array(["a", "b", "c"]), "expected numbers"),
        ],
    )
    def test_values_that_are_no_similarities(self, tmp_path, matrix, message):
        path, classes = write_npy(tmp_path / "own.npy", matrix)
        with pytest.raises(InputError, match=message):
            read_matrix(path, classes)

    def test_npy_without_class_list(self, tmp_path):
        path, _ = write_npy(tmp_path / "own.npy", MATRIX)
        with pytest.raises(InputError, match="has no labels; name them with --classes"):
            read_matrix(path, "")

    def test_labels_given_twice(self, tmp_path):
        path = tmp_path / "own.csv"
        path.write_text(",a,b\na,1,0.5\nb,0.5,1\n")
        with pytest.raises(InputError, match="has labels of its own, and --classes"):
            read_matrix(path, "imagenet1k")

    def test_npy_of_python_objects_is_not_unpickled(self, tmp_path):
        objects = np.array([[{}, 1], [1, {}]], dtype=object)
        path, classes = write_npy(tmp_path / "own.npy", objects)
        with pytest.raises(InputError, match=r"cannot read --matrix .*Python objects"):
            read_matrix(path, classes)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "names 0 classes, expected at least 2"),
            (",a,b\na,1,0.5\nc,0.5,1\n", "first column and first row name different"),
            (",a,b\na,1,x\nb,0.5,1\n", "could not convert string to float"),
            (",a,b\na,1\nb,0.5,1\n", "cannot read --matrix"),
            (",a,a\na,1,0.5\na,0.5,1\n", "names 1 class more than once: a"),
        ],
    )
    def test_csv_that_is_no_matrix(self, tmp_path, text, message):
        path = tmp_path / "own.csv"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_matrix(path, "")

    @pytest.mark.parametrize(
        "datasets",
        [
            {"similarity": MATRIX},
            {"label": LABELS},
            {"similarity": MATRIX, "label": [LABELS] * 3},
            {"similarity": MATRIX, "label": "crow"},
            {"similarity": MATRIX, "label": [b"\xff", b"a", b"b"]},
            {"similarity/inside": MATRIX, "label": LABELS},
            {"similarity": MATRIX, "label/inside": LABELS},
        ],
    )
    def test_hdf5_without_the_two_datasets(self, tmp_path, datasets):
        path = write_hdf5(tmp_path / "own.h5", **datasets)
        with pytest.raises(InputError, match=r"own\.h5"):
            read_matrix(path, "")

    @pytest.mark.parametrize("name", ["own.csv", "own.h5", "own.txt", "folder.h5"])
    def test_no_file_or_another_kind(self, tmp_path, name):
        (tmp_path / "folder.h5").mkdir()
        (tmp_path / "own.txt").write_text("a,b\n")
        with pytest.raises(InputError, match=r"--matrix .*\.(csv|h5|txt)"):
            read_matrix(tmp_path / name, "")


class TestHostile:
    """Bombs and pointers to other files: refused before their content is touched."""

    def test_an_npy_that_declares_more_than_it_holds(self, tmp_path):
        path, classes = write_npy(tmp_path / "own.npy", MATRIX)
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"(3, 3), }    ", b"(3, 99999), }"))
        with pytest.raises(InputError, match="cannot read --matrix"):
            read_matrix(path, classes)

    def test_a_matrix_of_exabytes(self, tmp_path):
        path = write_hdf5(tmp_path / "own.h5", label=LABELS)
        with h5py.File(path, "a") as file:
            file.create_dataset("similarity", (2**20, 2**20), "f8", chunks=(64, 64))
        with pytest.raises(InputError, match="bytes and stores hardly any"):
            read_matrix(path, "")

    def test_labels_that_are_one_megabyte_again_and_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr("deepme.images.matrices.MAX_TEXT", 10)
        path = write_hdf5(tmp_path / "own.h5", label=LABELS, similarity=MATRIX)
        with pytest.raises(InputError, match="labels have more than 10 bytes"):
            read_matrix(path, "")

    def test_a_link_to_another_file(self, tmp_path):
        write_hdf5(tmp_path / "other.h5", similarity=MATRIX)
        path = write_hdf5(
            tmp_path / "own.h5",
            label=LABELS,
            similarity=h5py.ExternalLink("other.h5", "similarity"),
        )
        with pytest.raises(InputError, match="similarity is a link to elsewhere"):
            read_matrix(path, "")

    def test_a_matrix_of_other_labels(self, tmp_path):
        path = write_hdf5(tmp_path / "own.h5", label=LABELS[:2], similarity=MATRIX)
        with pytest.raises(
            InputError, match=r"2 labels and a matrix of shape \(3, 3\)"
        ):
            read_matrix(path, "")
