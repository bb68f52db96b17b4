"""JSON artifacts: round trip, canonical form, and every way to be something else."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from injection import Calls

from deepme.errors import ArtifactError, EnvironmentFault
from deepme.storage import json as storage
from deepme.storage.header import Header, canonical, class_digest
from deepme.storage.json import json_header, read_json, write_json

HEADER = Header(
    kind="try",
    schema_version=1,
    settings={"seed": 3, "delta": 0.3, "name": "Θ", "nothing": None, "list": [1, 2]},
    classes=class_digest(["n00000001", "n00000002"]),
    made_from={"other.h5": "0" * 64},
)
CONTENT = {"values": [1, 2.5, True, None, "text"], "empty": {}}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "try.json"


def document(path: Path) -> Any:
    return json.loads(path.read_bytes())


def forge(path: Path, document: Any) -> None:
    """Write a document in canonical form with the right digest, as deepme would."""
    header = dict(document["deepme"])
    header.pop("sha256", None)
    digest = storage._digest(header, document["content"])
    path.write_bytes(storage._serialise(header, document["content"], digest))


def unsorted(document: dict[str, Any]) -> bytes:
    return json.dumps(dict(reversed(document.items())), indent=1).encode() + b"\n"


class TestRoundTrip:
    def test_of_header_content_and_digest(self, path: Path):
        digest = write_json(path, HEADER, CONTENT)
        assert read_json(path, "try", 1) == (HEADER, CONTENT, digest)
        assert json_header(path) == (HEADER, digest)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=500)
    @given(content=json_values)
    def test_of_any_json(self, path: Path, content: Any):
        write_json(path, HEADER, content)
        assert read_json(path, "try", 1)[1] == content

    def test_rewritten_is_the_same_byte_for_byte(self, path: Path):
        write_json(path, HEADER, {"b": 1, "a": 2})
        first = path.read_bytes()
        write_json(path, HEADER, {"a": 2, "b": 1})
        assert path.read_bytes() == first

    def test_digest_tells_content_and_header_apart(self, path: Path):
        other = Header(kind="try", schema_version=1, settings={"seed": 4})
        digests = {
            write_json(path, HEADER, CONTENT),
            write_json(path, HEADER, CONTENT | {"more": 1}),
            write_json(path, other, CONTENT),
        }
        assert len(digests) == 3

    def test_is_readable_for_people(self, path: Path):
        digest = write_json(path, HEADER, CONTENT)
        read = document(path)
        assert read["content"] == CONTENT
        assert read["deepme"] == {**HEADER.to_dict(), "sha256": digest}

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_numbers_that_are_none_are_refused_before_writing(
        self, path: Path, number: float
    ):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, HEADER, {"loss": number})
        assert not path.exists()


class TestWrongFile:
    @pytest.mark.parametrize("read", [lambda p: read_json(p, "try", 1), json_header])
    def test_missing(self, path: Path, read: Any):
        with pytest.raises(ArtifactError, match=r"try\.json is missing; run the"):
            read(path)

    def test_below_a_file(self, path: Path):
        path.touch()
        with pytest.raises(ArtifactError, match="is missing"):
            read_json(path / "inner.json", "try", 1)

    def test_folder(self, path: Path):
        path.mkdir()
        with pytest.raises(ArtifactError, match="corrupt: it is not a regular file"):
            read_json(path, "try", 1)

    @pytest.mark.timeout(5)
    def test_pipe_does_not_block(self, path: Path):
        os.mkfifo(path)
        with pytest.raises(ArtifactError, match="corrupt: it is not a regular file"):
            read_json(path, "try", 1)

    def test_link_to_a_device(self, path: Path):
        path.symlink_to("/dev/zero")
        with pytest.raises(ArtifactError, match="not a regular file"):
            read_json(path, "try", 1)

    def test_link_to_itself(self, path: Path):
        path.symlink_to(path)
        with pytest.raises(EnvironmentFault, match="Too many levels"):
            read_json(path, "try", 1)

    def test_too_large(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        write_json(path, HEADER, CONTENT)
        monkeypatch.setattr(storage, "MAX_BYTES", path.stat().st_size)
        read_json(path, "try", 1)
        monkeypatch.setattr(storage, "MAX_BYTES", path.stat().st_size - 1)
        with pytest.raises(ArtifactError, match="more than the"):
            read_json(path, "try", 1)

    def test_unreadable(self, path: Path):
        write_json(path, HEADER, CONTENT)

        def refuse() -> None:
            raise PermissionError(13, "Permission denied")

        with (
            Calls("stat", at=(1,), action=refuse),
            pytest.raises(EnvironmentFault, match=r"cannot read .*: Permission denied"),
        ):
            read_json(path, "try", 1)

    def test_of_another_kind(self, path: Path):
        write_json(path, HEADER, CONTENT)
        with pytest.raises(ArtifactError, match="holds try, expected groups; the file"):
            read_json(path, "groups", 1)

    def test_of_another_layout(self, path: Path):
        write_json(path, HEADER, CONTENT)
        with pytest.raises(ArtifactError, match="layout 1 of try, this deepme reads l"):
            read_json(path, "try", 2)


BROKEN = {
    "empty": b"",
    "no JSON": b"hello",
    "not an object": b"[]",
    "a number": b"3",
    "no header": b'{"content": 1}',
    "header is a list": b'{"content": 1, "deepme": []}',
    "header is null": b'{"content": 1, "deepme": null}',
    "no digest": b'{"content": 1, "deepme": {}}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "not UTF-8": b'{"content": "\xff", "deepme": {"sha256": ""}}',
    "UTF-16": '{"content": 1, "deepme": {"sha256": ""}}'.encode("utf-16"),
    "NaN": b'{"content": NaN, "deepme": {"sha256": ""}}',
    "Infinity": b'{"content": -Infinity, "deepme": {"sha256": ""}}',
    "beyond a double": b'{"content": 1e999, "deepme": {"sha256": ""}}',
    "5,000 digits": b'{"content": %s, "deepme": {"sha256": ""}}' % (b"9" * 5000),
    "duplicate key": b'{"content": 1, "content": 1, "deepme": {"sha256": ""}}',
    "100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "deep content": b'{"content": %s, "deepme": {"sha256": ""}}'
    % (b"[" * 50_000 + b"]" * 50_000),
    "lone surrogate": b'{"content": "\\ud800", "deepme": {"sha256": ""}}',
}


class TestCorrupt:
    @pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
    def test_anything_else_is_one_error(self, path: Path, raw: bytes):
        path.write_bytes(raw)
        with pytest.raises(ArtifactError, match="is corrupt: ") as caught:
            read_json(path, "try", 1)
        assert caught.value.exit_code == 2
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        "change",
        [
            lambda raw: raw + b"\n",
            lambda raw: b" " + raw,
            lambda raw: raw.replace(b"\n", b"\r\n"),
            lambda raw: json.dumps(json.loads(raw)).encode(),
            lambda raw: unsorted(json.loads(raw)),
        ],
        ids=["newline", "space", "CRLF", "compact", "unsorted"],
    )
    def test_another_form_of_the_same_values(self, path: Path, change: Any):
        write_json(path, HEADER, {"b": 1, "a": 2})
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(ArtifactError, match="not in the canonical form"):
            read_json(path, "try", 1)

    @pytest.mark.parametrize(
        "change",
        [
            lambda d: d["content"].update(empty=1),
            lambda d: d["deepme"]["settings"].update(seed=4),
            lambda d: d["deepme"]["made_from"].update({"other.h5": "1" * 64}),
            lambda d: d["deepme"].update(deepme="0.0.0"),
            lambda d: d["deepme"].update(sha256="0" * 64),
        ],
    )
    def test_another_value(self, path: Path, change: Any):
        write_json(path, HEADER, CONTENT)
        changed = document(path)
        change(changed)
        text = json.dumps(changed, sort_keys=True, indent=1)
        path.write_text(text + "\n")
        with pytest.raises(ArtifactError, match="does not match its sha256"):
            read_json(path, "try", 1)


class TestHeader:
    @pytest.mark.parametrize(
        ("change", "where"),
        [
            (lambda h: h.pop("kind"), "kind: Field required"),
            (lambda h: h.update(kind=3), "kind: Input should be a valid string"),
            (lambda h: h.update(schema_version="1"), "schema_version: Input should be"),
            (lambda h: h.update(schema_version=True), "schema_version: Input should"),
            (lambda h: h.update(settings=[]), "settings: Input should be an object"),
            (lambda h: h.update(made_from={"a": 1}), "made_from.a: Input should be"),
            (lambda h: h.update(author="x"), "author: Unexpected keyword argument"),
        ],
    )
    def test_is_validated_field_by_field(self, path: Path, change: Any, where: str):
        write_json(path, HEADER, CONTENT)
        changed = document(path)
        change(changed["deepme"])
        forge(path, changed)
        with pytest.raises(ArtifactError, match=f"is corrupt: {where}"):
            read_json(path, "try", 1)

    def test_names_of_data_are_cleaned(self, path: Path):
        write_json(path, Header(kind="\x1b[31mred", schema_version=1), CONTENT)
        with pytest.raises(ArtifactError) as caught:
            read_json(path, "try", 1)
        assert str(caught.value).isprintable()

    def test_class_digest_depends_on_order(self):
        assert class_digest(["a", "b"]) != class_digest(["b", "a"])
        assert class_digest(iter(["a", "b"])) == class_digest(("a", "b"))

    def test_canonical_is_sorted_and_compact(self):
        assert canonical({"b": [1, 2], "a": "ü"}) == b'{"a":"\\u00fc","b":[1,2]}'
