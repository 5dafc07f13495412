"""The tables and keys of a run file, as types: what a training run is. :mod:`runfile` reads and checks one."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Whole = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Tokens = Annotated[int, Meta(ge=4)]

Objective = Literal["retrieval", "mlm", "imitation", "index"]
Head = Literal["keep", "identity", "lexical"]
Penalty = Literal["l1", "flops", "none"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A table of the run file; a key that is not a field is an error.

    Defaults are left out where it is encoded, so that a checkpoint's identity stays when a key is added.
    """


class SetSettings(Section, frozen=True):
    """One retrieval set in BEIR form.

    ``path``: its directory, relative to the run file. ``split``: the qrels to learn from. ``queries``: its queries
    file, if it is not ``queries.jsonl[.gz]``. ``weight``: its share of the steps, relative to the other sets.
    ``held_out``: how many of its queries are left out of training and measure nDCG@10 during it. ``dev``: other qrels
    whose queries measure it instead (``held_out`` of them, 0 for all; a query to learn from that has the text of one is
    left out); ``dev_queries``: their file, if it is not ``queries.jsonl[.gz]``. ``lexical``: the weight of BM25 in this
    set's teacher (default: that of ``[teacher]``). ``index``: an index of its corpus, for objective "index".
    """

    path: str
    split: str = "train"
    queries: str | None = None
    weight: NotNegative = 1.0
    held_out: Whole = 0
    dev: str | None = None
    dev_queries: str | None = None
    lexical: NotNegative | None = None
    index: str | None = None


class EncoderSettings(Section, frozen=True):
    """One encoder.

    ``base``: the checkpoint directory it starts from, relative to the run file. ``layers``: which of its layers are
    kept, in order (default: all). ``width``: make a narrow encoder instead: word embeddings of this width are the
    principal components of those of ``base``, the rest (``layers`` counted, ``attention_heads``) is random.

    ``head``: "keep" the one of ``base`` (a masked-language model), "identity" (hidden states pass through), or
    "lexical" (a least-squares fit after which each position's logits name its own token and its neighbours in
    meaning; see :mod:`lexical_head`). ``sharpness``: scale of a new head's logits: "lexical", the mean logit of a
    position's own token; "identity", the length of the normalized states. ``threshold``: what is subtracted through
    the decoder bias, in units of ``sharpness``; ``idf_slope``: how much of a term's centred idf is added there.
    ``silent``: vocabulary classes that never get weight ("special", "stop words", "punctuation").

    ``freeze``: parameters whose names contain one of these stay as they are; ``frozen``: all of them do.
    ``max_length``: tokens of a training text, special ones included.
    """

    base: str
    layers: list[int] | None = None
    width: Count | None = None
    attention_heads: Count = 2
    head: Head = "keep"
    sharpness: Positive = 6.0
    threshold: NotNegative = 0.6
    idf_slope: NotNegative = 0.0
    silent: list[Literal["special", "stop words", "punctuation"]] = field(
        default_factory=lambda: ["special", "stop words", "punctuation"]
    )
    freeze: list[str] = field(default_factory=list)
    frozen: bool = False
    max_length: Tokens = 128


class TeacherSettings(Section, frozen=True):
    """What is distilled. A teacher's score of (q, d) is ``dense * cosine + lexical * BM25``.

    ``base``: a dense encoder (mean or CLS pooling), None for no distillation. ``weight``: of the KL divergence in the
    loss. ``query_vectors``: a SPLADE query encoder whose vectors the query encoder imitates, with ``vector_weight``.
    Their weights are first multiplied by the power ``idf`` of the terms' inverse document frequency (see
    :mod:`rarity`); ``document_vectors``: a document encoder in whose vectors it is counted as well as in the words
    of the documents. ``random_words``: the weight of imitating them on random words of the vocabulary too, as many
    texts as a batch has, so that words without a training query keep theirs (objective "index").
    """

    base: str | None = None
    weight: NotNegative = 1.0
    dense: NotNegative = 20.0
    lexical: NotNegative = 0.0
    max_length: Tokens = 128
    query_vectors: str | None = None
    vector_weight: NotNegative = 1.0
    idf: NotNegative = 0.0
    document_vectors: str | None = None
    random_words: NotNegative = 0.0


class RegularizerSettings(Section, frozen=True):
    """Sparsity of one side: FLOPS (Paria et al. 2020) or, as the paper has it for queries, L1.

    Defaults: L1 and 8 terms for queries, FLOPS and 150 terms for documents.

    ``weight`` grows quadratically over ``ramp`` steps. With ``terms`` it is then steered so that the mean number of
    terms of a text meets it: the weight is multiplied by ``(terms now / terms wanted) ** steer`` after each step
    (``steer = 0``: never).
    """

    penalty: Penalty
    weight: NotNegative = 0.01
    ramp: Whole = 100
    terms: Positive | None = None
    steer: NotNegative = 0.02


class MiddleSettings(Section, frozen=True):
    """FLOPS-regularized middle-training on the collections' texts (objective "mlm")."""

    mask_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.15


class TrainingSettings(Section, frozen=True):
    """Steps and optimizer (AdamW, linear warm-up and decay).

    ``batch``: queries a step; ``negatives``: hard negatives a query; ``negative_depth``: they are drawn from the first
    so many mined ones; ``miner``: the pair that mines them, a directory with ``query/`` and ``document/`` (default:
    BM25, which always mines those of fragments); ``accumulate``: batches an update; ``chunk``: texts encoded at a time
    with gradient caching (Gao et al. 2021), 0 for all at once. ``fragments``: the share of queries that are cut from
    documents, whose words no judged query may have; ``keywords``: the share of these that are scattered words instead
    of successive ones. ``contrastive``: weight of the cross-entropy; ``scale``: what the
    dot product is multiplied with before the softmax.
    """

    steps: Count
    batch: Count = 32
    negatives: Whole = 1
    negative_depth: Count = 30
    miner: str | None = None
    fragments: Share = 0.0
    keywords: Share = 0.0
    accumulate: Count = 1
    chunk: Whole = 0
    learning_rate: Positive = 1e-4
    warmup: Whole = 50
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    contrastive: NotNegative = 1.0
    scale: Positive = 1.0
    bf16: bool = False
    checkpoint_every: Count = 100
    evaluate_every: Whole = 250
    evaluation_documents: Count = 1500
    seed: Whole = 0


class RunFile(Section, frozen=True):
    """A whole run.

    ``objective``: "retrieval" trains ``[document]`` and ``[query]`` (without the latter, one encoder for both sides);
    "mlm" middle-trains ``[document]``; "imitation" trains ``[query]`` to give the vectors of another query encoder;
    "index" fits ``[query]`` to the document vectors of the ``index`` of each set.

    A run file may begin with ``extends = "other.toml"``: it then changes keys of that file. ``[[sets]]`` are
    replaced as a whole. A key of the file itself that would do nothing is an error, one of the other file is not.
    """

    name: str
    sets: list[SetSettings]
    training: TrainingSettings
    query_regularizer: RegularizerSettings
    document_regularizer: RegularizerSettings
    document: EncoderSettings | None = None
    query: EncoderSettings | None = None
    objective: Objective = "retrieval"
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    middle: MiddleSettings = field(default_factory=MiddleSettings)
