"""How texts of each side are read: prompts, lengths, special tokens, where they are cut."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from splade_edge.runtime import Document, Searcher, build_index
from splade_edge.runtime.artifact import (
    ARTIFACT_FORMAT,
    MANIFEST_NAME,
    UNLIMITED,
    VERSION,
    ArtifactManifest,
    SideSettings,
    encoding_sha256,
    open_artifact,
    write_artifact_manifest,
)
from splade_edge.runtime.bench.texts import made_texts
from splade_edge.runtime.build.passages import Passages
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.encoder.tokenizer import TextTokenizer
from splade_edge.runtime.errors import ArtifactError, InputError
from splade_edge.runtime.manifest import read_manifest, write_manifest

from .. import tiny

PROMPT = "the bird: "  # 3 tokens, of which ":" is unknown
QUERY, DOCUMENT = SideSettings(prompt=PROMPT, max_length=8), SideSettings(max_length=tiny.MAX_LENGTH)
SIDES = {"query": QUERY, "document": DOCUMENT}


def ids(text: str) -> list[int]:
    return [tiny.VOCABULARY.index(word) for word in text.split()]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Serves both sides, which are read otherwise."""
    return tiny.write_artifact(tmp_path_factory.mktemp("prompts") / "both", sides=SIDES)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.open(tiny.write_artifact(tmp_path_factory.mktemp("plain") / "a"), threads=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tiny.write_tokenizer(path)
    return path


def assert_equal(vector, other) -> None:
    np.testing.assert_array_equal(vector.indices, other.indices)
    np.testing.assert_array_equal(vector.values, other.values)


class TestEncoder:
    def test_each_side_has_its_prompt_and_its_length(self, path: Path, plain: Encoder) -> None:
        encoder = Encoder.open(path, threads=1)
        assert_equal(encoder.encode_query("cat river"), plain.encode_query(PROMPT + "cat river"))
        assert_equal(encoder.encode_document("cat river"), plain.encode_query("cat river"))
        long = "cat dog fish tree river city"
        [query], [document] = encoder.encode([long], "query"), encoder.encode([long], "document")
        assert (query.tokens, query.truncated) == (8, True)
        assert (document.tokens, document.truncated) == (8, False)
        assert_equal(query.vector, plain.encode_query(PROMPT + "cat dog fish"))
        assert_equal(encoder.encode_text(long, "query").vector, query.vector)
        assert_equal(next(encoder.encode_query(iter([long]))), query.vector)

    def test_a_side_must_be_known_where_it_matters(self, path: Path) -> None:
        encoder = Encoder.open(path, threads=1)
        for call in (
            lambda: encoder.encode(["cat"]),
            lambda: encoder.encode_text("cat"),
            lambda: encoder.tokenizer,
            lambda: encoder.max_length,
        ):
            with pytest.raises(InputError, match=r"say which the texts are: side='query' or side='document'") as caught:
                call()
            assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match="'title' is not a side of an encoder; give 'query' or 'document'"):
            encoder.encode_text("cat", "title")
        assert encoder.vocabulary == tiny.VOCABULARY

    @pytest.mark.parametrize("side", ["query", "document"])
    def test_the_side_it_was_opened_for(self, path: Path, side) -> None:
        encoder = Encoder.open(path, side, threads=1)
        assert encoder.max_length == encoder.tokenizer.max_length == SIDES[side].max_length
        both = Encoder.open(path, threads=1)
        assert_equal(encoder.encode_text("cat").vector, both.encode_text("cat", side).vector)
        assert_equal(encoder.encode_query("cat"), both.encode_query("cat"))
        assert_equal(encoder.encode_document("cat"), both.encode_document("cat"))
        restricted = encoder.restricted(np.arange(encoder.vocab_size))
        assert_equal(restricted.encode_text("cat").vector, both.encode_text("cat", side).vector)

    def test_any_side_does_where_they_are_equal(self, tmp_path: Path) -> None:
        same = SideSettings(prompt="cat ", max_length=9)
        encoder = Encoder.open(tiny.write_artifact(tmp_path / "a", sides={"query": same, "document": same}), threads=1)
        assert encoder.max_length == 9
        assert encoder.tokenizer_of("query") is encoder.tokenizer_of("document") is encoder.tokenizer
        assert_equal(encoder.encode_text("dog").vector, encoder.encode_text("dog", "document").vector)

    def test_the_only_side(self, tmp_path: Path) -> None:
        encoder = Encoder.open(tiny.write_artifact(tmp_path / "a", "query", sides={"query": QUERY}), threads=1)
        assert encoder.tokenizer.prompt == PROMPT
        assert encoder.encode_text("cat").tokens == 6
        with pytest.raises(ArtifactError, match="holds a query encoder; open the document side of its pair"):
            encoder.encode(["cat"], "document")

    def test_known_looks_at_the_text_alone(self, path: Path) -> None:
        encoder = Encoder.open(path, threads=1)
        texts = ["cat", "☃ cat", "☃☃ ☃", "", " \x00 ", "s", "\ud83d\ude00", "\ud800 cat"]
        expected = [True, True, False, False, False, False, False, True]
        assert [e.known for e in encoder.encode(texts, "query")] == expected
        assert [encoder.encode_text(text, "query").known for text in texts] == expected
        # cut, so that nothing known is left of the text
        assert not encoder.encode_text("☃ ☃ ☃ cat", "query").known

    def test_a_word_that_begins_in_the_prompt_is_of_the_text(self, file: Path) -> None:
        tokenizer = TextTokenizer(file, 8, prompt="c")
        assert tokenizer.encode("at").ids == [2, *ids("cat"), 3]
        assert tokenizer.encode("at").known
        assert not tokenizer.encode("").known

    def test_without_special_tokens_an_empty_text_has_no_terms(self, tmp_path: Path) -> None:
        path = tiny.write_artifact(tmp_path / "a", adds_special_tokens=False, max_length=2)
        encoder = Encoder.open(path, threads=1)
        assert encoder.tokenizer.encode("cat dog fish") == (ids("cat dog"), True, True)
        for empty in (encoder.encode_text(""), *encoder.encode(["", " "])):
            assert (empty.vector.indices.size, empty.tokens, empty.known, empty.truncated) == (0, 0, False, False)
        assert encoder.encode_query("cat").indices.size

    def test_a_look_up_without_a_limit(self, tmp_path: Path) -> None:
        weights = np.linspace(0, 1, len(tiny.VOCABULARY), dtype=np.float32)
        path = tiny.write_table_artifact(
            tmp_path / "a",
            weights,
            max_length=UNLIMITED,
            sides={"query": SideSettings(max_length=UNLIMITED)},
            adds_special_tokens=False,
        )
        encoder = Encoder.open(path, threads=1)
        encoded = encoder.encode_text("cat dog " * 5000)
        assert (encoded.tokens, encoded.truncated) == (10_000, False)
        assert encoded.vector.indices.tolist() == ids("cat dog")  # neither [CLS] nor [SEP]
        assert encoder.encode_query("☃").indices.tolist() == ids("[UNK]")
        assert [e.tokens for e in encoder.encode(["cat", "cat " * 3000, ""])] == [1, 3000, 0]
        made = made_texts(encoder.tokenizer, encoder.vocab_size, 20, 5)
        assert {encoder.encode_text(text).tokens for text in made} == {20}


class TestTokenizer:
    def test_room_and_what_every_text_gets(self, file: Path) -> None:
        tokenizer = TextTokenizer(file, 8, prompt=PROMPT)
        assert (tokenizer.special_tokens, tokenizer.prompt_tokens, tokenizer.room) == (2, 3, 3)
        tokenizer = TextTokenizer(file, 8, prompt=PROMPT, adds_special_tokens=False)
        assert (tokenizer.special_tokens, tokenizer.prompt_tokens, tokenizer.room) == (0, 3, 5)

    @pytest.mark.parametrize("length", [1, 2])
    def test_a_length_without_room(self, file: Path, length: int) -> None:
        message = rf"of {length} has no room beside 2 special tokens; .*splade-edge export .* --max-length N\)"
        with pytest.raises(ArtifactError, match=message):
            TextTokenizer(file, length)
        assert (
            TextTokenizer(file, length, adds_special_tokens=False).encode("cat dog fish").ids == ids("cat dog")[:length]
        )

    @pytest.mark.parametrize("length", [3, 4, 5])
    def test_a_prompt_without_room(self, file: Path, length: int) -> None:
        message = (
            r"no room beside a prompt of 3 tokens and 2 special tokens; .*--max-length N\), or with a shorter --pr"
        )
        with pytest.raises(ArtifactError, match=message) as caught:
            TextTokenizer(file, length, prompt=PROMPT)
        assert "\n" not in str(caught.value)
        assert TextTokenizer(file, 6, prompt=PROMPT).encode("cat dog").ids == [2, *ids("the bird [UNK] cat"), 3]
        # from the left, the prompt goes first
        cut = TextTokenizer(file, length, prompt=PROMPT, truncation_side="left")
        assert cut.encode("cat dog").ids[:-1] == [2, *ids("the bird [UNK] cat dog")[2 - length :]]
        assert cut.room < 1

    def test_what_is_read(self, file: Path) -> None:
        tokenizer = TextTokenizer(file, 8, prompt=PROMPT)
        assert tokenizer.read(" cat ☃") == (PROMPT + " cat ☃", False)
        assert tokenizer.read("cat  dogs \ud800 fish") == (PROMPT + "cat  dogs", True)
        left = TextTokenizer(file, 5, prompt=PROMPT, truncation_side="left")
        assert left.read("cat dog ") == (": cat dog ", True)
        assert TextTokenizer(file, 3).read("") == ("", False)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("split", [False, True])
    @pytest.mark.parametrize("special", [False, True])
    def test_as_transformers_reads_it(self, tmp_path: Path, side, split: bool, special: bool) -> None:
        from transformers import PreTrainedTokenizerFast

        file = tmp_path / "tokenizer.json"
        tiny.write_tokenizer(file)
        names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk")}
        theirs = PreTrainedTokenizerFast(
            tokenizer_file=str(file), truncation_side=side, split_special_tokens=split, **names
        )
        theirs.backend_tokenizer.save(str(file))  # with the special tokens, as an export has it
        texts = ["cat dog fish bird tree river city", "[SEP] cat [CLS] [UNK]", "", "cat", "the ☃ of [SEP]", "a " * 50]
        for length in (3, 4, 5, 9):
            ours = (
                TextTokenizer(
                    file,
                    length,
                    prompt="a ",
                    truncation_side=side,
                    split_special_tokens=split,
                    adds_special_tokens=special,
                )
                if length > 3
                else TextTokenizer(
                    file, length, truncation_side=side, split_special_tokens=split, adds_special_tokens=special
                )
            )
            for text in texts:
                expected = theirs(
                    ours.prompt + text,
                    truncation=True,
                    max_length=length,
                    add_special_tokens=special,
                    split_special_tokens=split,
                )["input_ids"]
                found = ours.encode(text)
                assert found.ids == expected
                whole = theirs(ours.prompt + text, add_special_tokens=special, split_special_tokens=split)["input_ids"]
                assert found.truncated == (len(whole) > length)

    def test_special_tokens_written_in_a_text(self, tmp_path: Path) -> None:
        from tokenizers import Tokenizer

        tiny.write_tokenizer(tmp_path / "t.json")
        library = Tokenizer.from_file(str(tmp_path / "t.json"))
        library.add_special_tokens(["[SEP]", "[UNK]"])
        library.save(str(tmp_path / "t.json"))
        whole, parts = (TextTokenizer(tmp_path / "t.json", 9, split_special_tokens=split) for split in (False, True))
        assert whole.encode("cat [SEP]").ids == [2, *ids("cat [SEP]"), 3]
        assert parts.encode("cat [SEP]").ids == [2, *ids("cat [UNK] [UNK] [UNK]"), 3]
        assert [len(t.spans("cat [SEP]").offsets) for t in (whole, parts)] == [2, 4]
        assert not whole.encode("[SEP] [UNK]").known


class TestManifest:
    @pytest.mark.parametrize(
        ("role", "sides", "message"),
        [
            (
                "query",
                {"query": QUERY, "document": DOCUMENT},
                "settings for a document side, but holds a query encoder",
            ),
            ("both", {"query": QUERY}, "no settings for the document side that it serves"),
            ("document", {"query": QUERY}, "settings for a query side, but holds a document encoder"),
            (
                "document",
                {"document": SideSettings(max_length=tiny.MAX_LENGTH + 1)},
                "a maximum length of 17 for the document side, beyond the encoder's 16",
            ),
        ],
    )
    def test_sides_that_do_not_fit(self, tmp_path: Path, role, sides, message: str) -> None:
        path = tiny.write_artifact(tmp_path / "a", role, sides=sides)
        for check in (True, False):
            with pytest.raises(ArtifactError, match=rf"{message}.*splade-edge export") as caught:
                open_artifact(path, check=check)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "changes",
        [
            {"sides": {"query": {"max_length": 0}}},
            {"sides": {"query": {"prompt": "a"}}},
            {"sides": {"title": {"max_length": 4}}},
            {"numerics": -1},
            {"max_active_dims": 0},
            {"truncation_side": "middle"},
            {"normalization": "l1"},
            {"tokenizer_from": "elsewhere"},
        ],
        ids=str,
    )
    def test_values_that_are_none(self, tmp_path: Path, changes: dict) -> None:
        import hashlib

        from splade_edge.runtime.errors import IntegrityError
        from splade_edge.runtime.manifest import _indented

        path = tiny.write_artifact(tmp_path / "a", "query")
        body = msgspec.json.decode((path / MANIFEST_NAME).read_bytes())
        body = {**{k: v for k, v in body.items() if k != "digest"}, **changes}
        digest = hashlib.sha256(_indented(body)).hexdigest()
        (path / MANIFEST_NAME).write_bytes(_indented({**body, "digest": digest}))
        with pytest.raises(IntegrityError, match="is damaged") as caught:
            open_artifact(path)
        assert "\n" not in str(caught.value)

    def test_survives_a_copy(self, path: Path, tmp_path: Path) -> None:
        from splade_edge.runtime.build.artifact_copy import copy_artifact

        source = open_artifact(path)
        (tmp_path / "copy").mkdir()
        copied = copy_artifact(source, tmp_path / "copy", lambda v: True)
        assert copied.manifest.sides == SIDES
        assert (copied.manifest.version, copied.settings("query")) == (VERSION, QUERY)

    def test_an_older_manifest_has_one_length_and_no_prompt(self, tmp_path: Path) -> None:
        """As version 5 wrote it, byte for byte but for the hashes."""
        path = tiny.write_artifact(tmp_path / "a")
        manifest = open_artifact(path).manifest
        new = "numerics sides adds_special_tokens truncation_side split_special_tokens max_active_dims normalization"
        new += " tokenizer_from"
        body = {k: v for k, v in msgspec.to_builtins(manifest).items() if k not in new.split()}
        old = msgspec.convert({**body, "version": 5}, ArtifactManifest)
        assert (old.numerics, old.sides, old.adds_special_tokens, old.normalization) == (0, {}, True, "none")
        write_manifest(path / MANIFEST_NAME, old)
        artifact = open_artifact(path)
        for side in ("query", "document"):
            assert artifact.settings(side) == SideSettings(max_length=tiny.MAX_LENGTH)
        assert read_manifest(
            path / MANIFEST_NAME, ArtifactManifest, format=ARTIFACT_FORMAT, version=5, error=ArtifactError
        )


class TestIdentity:
    @pytest.mark.parametrize(
        ("changes", "sides"),
        [
            ({"sides": {**SIDES, "query": SideSettings(max_length=8)}}, "query"),
            ({"sides": {**SIDES, "document": SideSettings(prompt="a ", max_length=16)}}, "document"),
            ({"sides": {**SIDES, "document": SideSettings(max_length=15)}}, "document"),
            ({"max_length": 99}, ""),  # what sessions are opened with
            ({"adds_special_tokens": False}, "query document"),
            ({"truncation_side": "left"}, "query document"),
            ({"split_special_tokens": True}, "query document"),
            ({"max_active_dims": 3}, "query document"),
            ({"normalization": "all terms"}, "query document"),
            ({"numerics": 7}, "query document"),
        ],
        ids=str,
    )
    def test_covers_what_the_side_depends_on(self, path: Path, tmp_path: Path, changes: dict, sides: str) -> None:
        artifact = open_artifact(path)
        copy = shutil.copytree(path, tmp_path / "copy")
        write_artifact_manifest(copy, msgspec.structs.replace(artifact.manifest, **changes))
        other = open_artifact(copy)
        for side in ("query", "document"):
            mine, theirs = (encoding_sha256(a, a.variant("onnx"), side) for a in (artifact, other))
            assert (mine != theirs) == (side in sides)


class TestIndex:
    def test_each_side_is_encoded_as_its_own(self, path: Path, plain: Encoder, tmp_path: Path) -> None:
        documents = [Document("1", "", "cat river"), Document("2", "dog", "fish")]
        manifest = build_index(tmp_path / "index", documents, path, with_document_encoder=True)
        assert manifest.text is not None
        assert manifest.text.max_length == tiny.MAX_LENGTH
        with Searcher.open(tmp_path / "index", threads=1) as searcher:
            assert_equal(searcher.encode_query("cat"), plain.encode_query(PROMPT + "cat"))
            assert searcher.read_query("cat dog fish river") == (PROMPT + "cat dog fish", True)
            assert searcher.index.terms.tolist() == sorted(
                {t for text in ("cat river", "dog fish") for t in plain.encode_query(text).indices.tolist()}
            )
            (hits,) = searcher.search_many(["cat"])
            assert hits == searcher.search("cat")
            assert sum(c.score for c in searcher.explain("cat", hits[0]).contributions) == pytest.approx(hits[0].score)
            assert searcher.search("☃") == searcher.search("") == []  # the prompt's words are not the query's

    def test_passages_leave_room_for_the_prompt(self, tmp_path: Path) -> None:
        document = SideSettings(prompt=PROMPT, max_length=10)
        sides = {"query": DOCUMENT, "document": document}
        path = tiny.write_artifact(tmp_path / "a", sides=sides)
        text = "cat dog fish bird tree river city engine wing flow heat"
        with pytest.raises(InputError, match="reads 5 beside its special tokens and its prompt; ask for fewer"):
            build_index(tmp_path / "i", [Document("1", "", text)], path, passages=Passages(6))
        manifest = build_index(tmp_path / "i", [Document("1", "the", text)], path, passages=Passages(5, 1))
        assert manifest.statistics.truncated == 0
        assert manifest.segments[0].units == 4  # of 4 tokens each beside the title, one of them shared
