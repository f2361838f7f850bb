"""Files to documents: what is read, in which order, and every way a file can be wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.corpus import Corpus, Document, load_corpus
from moe_lens.corpus.load import _check_options
from moe_lens.errors import CorpusError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(corpus: Corpus) -> list[str]:
    return [document.text for document in corpus]


class TestText:
    def test_a_file_is_one_document(self, tmp_path: Path) -> None:
        corpus = load_corpus(write(tmp_path / "code.txt", "a\r\n\r\nb\n"))
        assert corpus.documents == (Document("a\r\n\r\nb\n", "code", "code/1"),)
        assert corpus.domains == ("code",)

    def test_lines(self, tmp_path: Path) -> None:
        corpus = load_corpus(write(tmp_path / "d.txt", "one\n\n  \ntwo\r\nthree"), split="line")
        assert texts(corpus) == ["one", "two", "three"]
        assert [d.id for d in corpus] == ["d/1", "d/4", "d/5"]
        assert corpus.num_blank == 2

    def test_a_line_separator_inside_a_line_is_text(self, tmp_path: Path) -> None:
        corpus = load_corpus(write(tmp_path / "d.txt", "a\u2028b\x0cc\x85d\n"), split="line")
        assert texts(corpus) == ["a\u2028b\x0cc\x85d"]

    def test_paragraphs(self, tmp_path: Path) -> None:
        source = write(tmp_path / "d.txt", "\n\na\nb\n \n\nc\r\n\r\n d\n")
        corpus = load_corpus(source, split="paragraph")
        assert [(d.id, d.text) for d in corpus] == [("d/3", "a\nb"), ("d/7", "c"), ("d/9", " d")]

    @pytest.mark.parametrize("split", ["file", "line", "paragraph"])
    def test_a_byte_order_mark_is_not_text(self, tmp_path: Path, split: str) -> None:
        source = write(tmp_path / "d.txt", b"\xef\xbb\xbfa")
        assert texts(load_corpus(source, split=split)) == ["a"]  # type: ignore[arg-type]

    def test_not_utf8(self, tmp_path: Path) -> None:
        source = write(tmp_path / "d.txt", "ok\nd\u00e9j\u00e0".encode("latin-1"))
        with pytest.raises(CorpusError, match=r"d\.txt: byte 4 \(0xe9\) is not UTF-8.*iconv"):
            load_corpus(source)
        with pytest.raises(CorpusError, match=r"d\.txt: line 2, byte 1 \(0xe9\) is not UTF-8"):
            load_corpus(source, split="line")

    @pytest.mark.parametrize("content", ["", " \n\t\n"])
    def test_nothing_but_white_space(self, tmp_path: Path, content: str) -> None:
        source = write(tmp_path / "void.txt", content)
        with pytest.raises(CorpusError, match=r"domain 'void' \(void\.txt\) has no text: 1 blank"):
            load_corpus(source)

    def test_unknown_split(self) -> None:
        with pytest.raises(CorpusError, match=r"split='word' is unknown.*file, line, paragraph"):
            _check_options("word", None)  # the run's type checker would stop load_corpus


class TestJsonLines:
    def test_fields_and_ids(self, tmp_path: Path) -> None:
        rows = [
            {"id": "x", "body": "a"},
            {"id": 7, "body": " "},
            {"body": "b"},
            {"id": 9, "body": "c"},
        ]
        source = write(tmp_path / "d.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
        corpus = load_corpus(source, field="body")
        assert [(d.id, d.text) for d in corpus] == [("d/x", "a"), ("d/3", "b"), ("d/9", "c")]
        assert corpus.num_blank == 1
        numbered = load_corpus(source, field="body", id_field=None)
        assert [d.id for d in numbered] == ["d/1", "d/3", "d/4"]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (
                '{"text": "b"',
                r"d\.jsonl: line 2 is not JSON \(Expecting ',' delimiter at column 13",
            ),
            ("plain text", r"line 2 is not JSON .* rename a text file to \.txt"),
            ('["b"]', r"line 2 is a JSON list, not an object.*\{\"text\": \"\.\.\.\"\}"),
            ('{"txt": "b", "n": 1}', r"line 2 has no field 'text'; it has 'n', 'txt'\. Name the"),
            ("{}", r"line 2 has no field 'text'; it has none"),
            ('{"text": null}', r"line 2: field 'text' is null, not a string"),
            ('{"text": ["b"]}', r"line 2: field 'text' is \[\"b\"\], not a string"),
            ('{"text": "\\ud800"}', r"line 2: field 'text' holds half of a surrogate pair"),
            (
                '{"text": "b", "id": 1}',
                r"line 2 has the id '1', as d\.jsonl: line 1 has.*id_field=None",
            ),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, line: str, message: str) -> None:
        source = write(tmp_path / "d.jsonl", '{"text": "a", "id": 1}\n' + line + "\n")
        with pytest.raises(CorpusError, match=message):
            load_corpus(source)

    def test_not_utf8(self, tmp_path: Path) -> None:
        source = write(tmp_path / "d.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n')
        with pytest.raises(CorpusError, match=r"line 2, byte 10 .0xff. is not UTF-8"):
            load_corpus(source)

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match=r"domain 'd' .* has no text: 0 blank"):
            load_corpus(write(tmp_path / "d.jsonl", ""))


class TestParquet:
    def test_column_and_ids(self, tmp_path: Path) -> None:
        pl.DataFrame(
            {"id": ["x", "y", "z"], "text": ["a", " ", "b"], "n": [1, 2, 3]}
        ).write_parquet(tmp_path / "d.parquet")
        corpus = load_corpus(tmp_path / "d.parquet")
        assert [(d.id, d.text) for d in corpus] == [("d/x", "a"), ("d/z", "b")]
        assert corpus.num_blank == 1
        assert [d.id for d in load_corpus(tmp_path / "d.parquet", id_field="n")] == ["d/1", "d/3"]

    def test_bad_columns(self, tmp_path: Path) -> None:
        source = tmp_path / "d.parquet"
        pl.DataFrame({"body": ["a", None], "n": [1, 2]}).write_parquet(source)
        with pytest.raises(
            CorpusError, match=r"d\.parquet has no column 'text'; it has 'body', 'n'"
        ):
            load_corpus(source)
        with pytest.raises(CorpusError, match="column 'n' is of type Int64, not String"):
            load_corpus(source, field="n")
        with pytest.raises(CorpusError, match=r"d\.parquet: row 2: column 'body' is null"):
            load_corpus(source, field="body")

    def test_same_id_twice(self, tmp_path: Path) -> None:
        pl.DataFrame({"id": ["x", "x"], "text": ["a", "b"]}).write_parquet(tmp_path / "d.parquet")
        with pytest.raises(CorpusError, match=r"row 2 has the id 'x', as d\.parquet: row 1 has"):
            load_corpus(tmp_path / "d.parquet")

    def test_not_parquet(self, tmp_path: Path) -> None:
        with pytest.raises(
            CorpusError, match=r"d\.parquet is not a Parquet file, or was cut short"
        ):
            load_corpus(write(tmp_path / "d.parquet", "hello"))


class TestDirectory:
    def test_one_domain_per_file_or_folder(self, tmp_path: Path) -> None:
        write(tmp_path / "math.txt", "m")
        write(tmp_path / "code" / "b.py.txt", "b")
        write(tmp_path / "code" / "deep" / "a.jsonl", '{"text": "a1"}\n{"text": "a2"}')
        write(tmp_path / "code" / ".hidden.txt", "no")
        write(tmp_path / "README.md", "about")
        write(tmp_path / ".git" / "x.txt", "no")
        corpus = load_corpus(tmp_path)
        assert corpus.domains == ("code", "math")
        assert [(d.domain, d.id, d.text) for d in corpus] == [
            ("code", "code/b.py.txt:1", "b"),
            ("code", "code/deep/a.jsonl:1", "a1"),
            ("code", "code/deep/a.jsonl:2", "a2"),
            ("math", "math/1", "m"),
        ]
        assert corpus.ignored == ("README.md",)
        assert corpus.num_documents == {"code": 3, "math": 1}
        assert corpus.domain_indices == (0, 0, 0, 1)

    def test_domains_are_sorted_by_name(self, tmp_path: Path) -> None:
        for name in ("b.txt", "a-2.txt", "a.txt"):
            write(tmp_path / name, name)
        corpus = load_corpus(tmp_path)
        assert corpus.domains == ("a", "a-2", "b")
        assert texts(corpus) == ["a.txt", "a-2.txt", "b.txt"]

    def test_two_files_of_one_domain(self, tmp_path: Path) -> None:
        write(tmp_path / "code.txt", "a")
        write(tmp_path / "code.jsonl", '{"text": "b"}')
        with pytest.raises(CorpusError, match=r"two entries make the domain 'code', .* code\.txt"):
            load_corpus(tmp_path)

    def test_nothing_usable(self, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match=r"no text that can be read.*it is empty"):
            load_corpus(tmp_path)
        write(tmp_path / "paper.pdf", "%PDF")
        with pytest.raises(CorpusError, match=r"\.txt, \.jsonl, \.parquet.*found only paper\.pdf"):
            load_corpus(tmp_path)

    def test_an_empty_file_among_others_does_not_vanish(self, tmp_path: Path) -> None:
        write(tmp_path / "a.txt", "a")
        write(tmp_path / "b.txt", "")
        with pytest.raises(CorpusError, match=r"domain 'b' \(b\.txt\) has no text"):
            load_corpus(tmp_path)


def test_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere does not exist\. Give a file .* 'demo' .* hub"):
        load_corpus(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "kind"), [("a.pdf", ".pdf"), ("a", "no suffix")])
def test_unknown_kind(tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(CorpusError, match=rf"files of kind {kind} cannot be read.*\.jsonl"):
        load_corpus(write(tmp_path / name, "x"))


class TestDemo:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("importlib.resources.files", lambda name: tmp_path)
        return tmp_path / "demo" / "corpora"

    def test_excerpts(self, package: Path) -> None:
        row = {"id": "lib/x.py", "text": "import x", "source": "somewhere"}
        write(package / "code.jsonl", json.dumps(row) + "\n")
        write(package / "SOURCES.md", "about")
        corpus = load_corpus("demo")
        assert corpus.documents == (Document("import x", "code", "code/lib/x.py"),)
        assert corpus.ignored == ()

    def test_absent(self, package: Path) -> None:
        with pytest.raises(CorpusError, match=r"demo excerpts .* are not in this installation"):
            load_corpus("demo")

    def test_local_directory_of_that_name(
        self, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "demo" / "mine.txt", "mine")
        assert texts(load_corpus("./demo")) == ["mine"]
        assert texts(load_corpus(Path("demo"))) == ["mine"]


class TestSampling:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        write(tmp_path / "a.txt", "\n".join(f"a{i}" for i in range(50)))
        write(tmp_path / "b.txt", "b0\nb1\n")
        return tmp_path

    def test_known_answer(self, source: Path) -> None:
        def rank(number: int) -> bytes:
            return hashlib.blake2b(f"0\0a\0a/{number}".encode(), digest_size=16).digest()

        kept = sorted(sorted(range(1, 51), key=rank)[:5])
        corpus = load_corpus(source, split="line", max_documents=5)
        assert texts(corpus) == [f"a{number - 1}" for number in kept] + ["b0", "b1"]
        assert corpus.sampling == (
            "at most 5 documents a domain, of lowest blake2b(seed 0, domain, id)"
        )
        assert load_corpus(source, split="line").sampling is None

    def test_more_documents_are_the_same_and_more(self, source: Path) -> None:
        few = load_corpus(source, split="line", max_documents=7, seed=3)
        many = load_corpus(source, split="line", max_documents=20, seed=3)
        assert set(few.documents) < set(many.documents)
        assert len(few) == 7 + 2

    def test_seed_and_other_domains(self, source: Path) -> None:
        def sample(path: Path, seed: int) -> list[str]:
            return texts(load_corpus(path, split="line", max_documents=10, seed=seed))

        assert sample(source, 0) != sample(source, 1)
        assert sample(source, 0)[:10] == sample(source / "a.txt", 0)

    def test_at_least_one(self, source: Path) -> None:
        with pytest.raises(CorpusError, match="max_documents=0: at least 1 document a domain"):
            load_corpus(source, max_documents=0)


class TestHash:
    def test_known_answer(self) -> None:
        corpus = Corpus((Document("d\u00e9", "x", "x/1"),), ("x",))
        parts = [b"x", b"x/1", "d\u00e9".encode()]
        sizes = [1, 3, 2]
        whole = b"".join(n.to_bytes(8, "big") + p for n, p in zip(sizes, parts, strict=True))
        assert corpus.sha256 == hashlib.sha256(whole).hexdigest()

    def test_the_format_does_not_enter(self, tmp_path: Path) -> None:
        a = load_corpus(write(tmp_path / "1" / "d.txt", "a\nb\n"), split="line")
        b = load_corpus(write(tmp_path / "2" / "d.jsonl", '{"text": "a"}\n{"text": "b"}'))
        pl.DataFrame({"text": ["a", "b"]}).write_parquet(tmp_path / "d.parquet")
        assert a.sha256 == b.sha256 == load_corpus(tmp_path / "d.parquet").sha256

    @given(
        st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=3, unique=True),
        st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=3, unique=True),
    )
    def test_other_documents_another_hash(
        self, one: list[tuple[str, str, str]], other: list[tuple[str, str, str]]
    ) -> None:
        hashes = {
            Corpus(tuple(Document(*parts) for parts in rows), ()).sha256 for rows in (one, other)
        }
        assert (len(hashes) == 1) == (one == other)


def test_the_same_twice(tmp_path: Path) -> None:
    for name in ("c", "a", "b"):
        write(tmp_path / f"{name}.txt", f"{name}1\n{name}2")
    assert load_corpus(tmp_path, split="line") == load_corpus(tmp_path, split="line")
