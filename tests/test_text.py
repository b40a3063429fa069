"""The corpus: disjoint, stable, and clear about what it cannot use."""

import pytest

from harness import text


def test_the_standard_library_serves_with_documents_longer_than_the_longest_context():
    corpus = text.load()
    assert not set(corpus.train) & set(corpus.held_out)
    assert not set(text.TRAIN.split()) & set(text.HELD_OUT.split())
    assert sum(len(document) > 16 * 1024 for document in corpus.held_out) >= 8
    assert sum(map(len, corpus.train)) > 4_000_000
    assert corpus.digest == text.load().digest


def test_a_module_without_source_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"_pydecimal\.py is missing.*(?s:.*)text=FILE_OR_FOLDER"):
        text.standard_library(tmp_path)


def write_folder(root, count=20, size=2000):
    for i in range(count):
        (root / f"{i:02}.txt").write_text(f"file {i} " * (size // 7))
    return root


def test_a_folder_is_split_by_file(tmp_path):
    corpus = text.load(write_folder(tmp_path), longest=500)
    assert corpus.held_out
    assert not set(corpus.train) & set(corpus.held_out)
    assert len(corpus.train) + len(corpus.held_out) == 20
    assert 0.1 <= sum(map(len, corpus.held_out)) / sum(map(len, corpus.train + corpus.held_out)) <= 0.2


def test_a_folder_of_which_too_little_can_be_held_out_says_so(tmp_path):
    (tmp_path / "a.txt").write_text("few " * 128 + "\n")
    (tmp_path / "b.txt").write_text("many " * 12_000)
    with pytest.raises(
        ValueError, match=r"too little can be held out(?s:.*)10% of all at least and 20% at most, found: 513 bytes"
    ):
        text.load(tmp_path, longest=512)


def test_each_window_has_bytes_of_its_own(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("ab" * 4600)
    assert len(text.load(path, longest=512, scored=400).held_out[0]) == 920
    with pytest.raises(
        ValueError, match=r"408 bytes after the first 512 of held-out documents, needed 500(?s:.*)10121 bytes is enough"
    ):
        text.load(path, longest=512, scored=500)
    path.write_text("ab" * 5061)
    text.load(path, longest=512, scored=500)


def test_a_text_of_one_byte_says_what_is_needed(tmp_path):
    path = tmp_path / "line.txt"
    path.write_text("x" * 2_000_000)
    with pytest.raises(ValueError, match=r"one byte over and over(?s:.*)two different bytes at least"):
        text.load(path)


def test_a_copy_does_not_stand_on_both_sides(tmp_path):
    write_folder(tmp_path)
    before = text.load(tmp_path, longest=500)
    for path in list(tmp_path.iterdir()):
        (tmp_path / f"copy of {path.name}").write_bytes(path.read_bytes())
    assert set(text.load(tmp_path, longest=500).train) == set(before.train)


def test_the_digest_follows_the_content_and_nothing_else(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        root.mkdir()
        write_folder(root)
    digest = text.load(first, longest=500).digest
    assert digest == text.load(second, longest=500).digest
    (second / "03.txt").write_text((second / "03.txt").read_text() + "!")
    assert digest != text.load(second, longest=500).digest


def test_the_digest_tells_train_from_held_out():
    assert text._text("", [b"ab", b"c"], [b"d"]).digest != text._text("", [b"ab"], [b"c", b"d"]).digest
    assert text._text("", [b"ab", b"c"], [b"d"]).digest != text._text("", [b"a", b"bc"], [b"d"]).digest


def test_a_file_is_split_into_two_spans(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {i}\r\n" for i in range(5000)))
    corpus = text.load(path, longest=512)
    assert (corpus.train[0] + corpus.held_out[0]).decode() == path.read_text().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"short", "too small for contexts of 2048 bytes"),
        (b"", "not text"),
        (b"\x00\x01" * 99999, "not text"),
        (b"\xff\xfe" * 99999, "not text"),
    ],
)
def test_a_file_that_cannot_serve_says_why(tmp_path, content, sentence):
    path = tmp_path / "book.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        text.load(path)


def test_a_folder_that_cannot_serve_says_why(tmp_path):
    with pytest.raises(ValueError, match="holds no text file"):
        text.load(tmp_path)
    (tmp_path / "one.txt").write_text("alone " * 1000)
    with pytest.raises(ValueError, match="no file can be held out"):
        text.load(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        text.load(tmp_path / "absent")
