from __future__ import annotations

from dataclasses import replace

import pytest
from splade_edge.models.families import (
    FAMILIES,
    Evidence,
    check_family,
    detect_family,
    family_named,
    published_family,
)
from splade_edge.models.pooling import ACTIVATIONS, POOLINGS
from splade_edge.runtime.errors import CheckpointError


def test_every_row_names_things_that_exist() -> None:
    assert len({f.name for f in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.pooling in POOLINGS
        assert family.activation in ACTIVATIONS
        assert family.query_sides
        assert family.checked or family.note, f"{family.name} says neither that it was checked nor why not"


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (Evidence("splade-v3", "bert"), "splade"),
        (Evidence("splade-v3", "bert", "max", "log1p_relu", "same encoder"), "splade"),
        (Evidence("splade-v3-distilbert", "distilbert"), "splade"),
        (Evidence("splade-v3-doc", "bert"), "splade"),
        (Evidence("splade-v1-finetuned", "bert"), "splade"),
        (Evidence("anything", "bert", query_side="bag of words"), "splade-v3-doc"),
        (Evidence("anything", "bert", "max", "log1p_relu", "masked encoder"), "splade-v3-lexical"),
        (Evidence("anything", "bert", query_side="own encoder"), "efficient-splade"),
        (Evidence("anything", "bert", "sum", "log1p_relu", "same encoder"), "splade-v1"),
        (Evidence("anything", "distilbert", "max", "log1p_relu", "look-up"), "opensearch-doc"),
        (Evidence("opensearch-neural-sparse-encoding-v2-distill", "distilbert"), "splade"),
        (Evidence("anything", "distilbert", "max", "log1p_log1p_relu", "look-up"), "opensearch-doc-v3"),
        (Evidence("granite-embedding-30m-sparse", "roberta"), "granite-sparse"),
        (Evidence("anything", "modernbert", query_side="look-up"), "modernbert-splade"),
        (Evidence("anything", "xlm-roberta", "max", "log1p_relu", "same encoder"), "splade-other"),
        (Evidence("anything", "bert", "max", "log1p_log1p_relu", "same encoder"), "splade-other"),
    ],
)
def test_detection(evidence: Evidence, expected: str) -> None:
    assert detect_family(evidence).name == expected


@pytest.mark.parametrize(
    ("hub_id", "evidence", "expected"),
    [
        ("naver/splade-v3-doc", Evidence("x", "bert"), "splade-v3-doc"),
        ("naver/splade-v3-lexical", Evidence("x", "bert"), "splade-v3-lexical"),
        ("naver/efficient-splade-VI-BT-large-query", Evidence("x", "bert"), "efficient-splade"),
        ("opensearch-project/opensearch-neural-sparse-encoding-doc-v2-distill",
         Evidence("x", "distilbert", query_side="look-up"), "opensearch-doc"),
        ("opensearch-project/opensearch-neural-sparse-encoding-v2-distill", Evidence("x", "distilbert"), "opensearch"),
        ("opensearch-project/opensearch-neural-sparse-encoding-doc-v3-distill",
         Evidence("x", "distilbert", query_side="look-up"), "opensearch-doc-v3"),
        ("someone/splade-v3-doc", Evidence("x", "bert"), None),
        ("naver/splade-v3-doc", Evidence("x", "roberta"), None),
        ("", Evidence("naver/splade-v3-doc", "bert"), None),
    ],
)  # fmt: skip
def test_a_published_hub_id_selects_a_family(hub_id: str, evidence: Evidence, expected: str | None) -> None:
    found = published_family(replace(evidence, hub_id=hub_id))
    assert (found.name if found else None) == expected


def test_a_model_that_states_nothing_is_read_as_the_library_reads_it() -> None:
    family = detect_family(Evidence("anything", "xlm-roberta"))
    assert (family.name, family.pooling, family.activation) == ("splade-other", "max", "log1p_relu")


def test_a_look_up_that_could_be_either_of_two_activations_is_not_guessed() -> None:
    with pytest.raises(CheckpointError, match="--family opensearch-doc-v3 or --family opensearch-doc"):
        detect_family(Evidence("my-copy", "distilbert", query_side="look-up"))


def test_a_named_family_must_not_contradict_the_checkpoint() -> None:
    with pytest.raises(CheckpointError, match=r"pooling 'max'.*'sum'"):
        check_family(family_named("splade-v1"), Evidence("x", "bert", pooling="max"))
    with pytest.raises(CheckpointError, match="'roberta' model"):
        check_family(family_named("splade"), Evidence("x", "roberta"))
    check_family(family_named("splade-other"), Evidence("x", "roberta", pooling="sum"))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="efficient-splade, splade-v3-lexical"):
        family_named("splad")
