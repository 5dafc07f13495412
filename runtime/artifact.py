"""The artifact format: one exported encoder in one directory. This module is its only reader and writer.

    DIR/splade_edge.json      manifest (ArtifactManifest)
    DIR/tokenizer.json        Hugging Face ``tokenizers`` file
    DIR/onnx/…  DIR/openvino/…   one pooled graph per (backend, precision)
    DIR/kernel/int8.bin       an encoder for our own kernels
    DIR/table.f32             instead of graphs, where a text's weights are looked up (float32 [vocab])
    DIR/parity.json  DIR/README.md   the proof against PyTorch, and the model card

A *pair* is a directory of two artifacts, ``query/`` and ``document/``, under a manifest of its own (PairManifest).
Every graph takes ``input_ids`` and ``attention_mask`` (int64 ``[batch, length]``, right-padded) and gives ``weights``
(float32 ``[batch, vocab]``, non-negative).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from .cpu import supports
from .errors import ArtifactError, IntegrityError, export_again
from .files import NOT_THERE, reading, safe_join
from .idf import LARGEST_POWER
from .manifest import FileEntry, Manifest, check_hashes, describe_file, read_manifest, write_manifest

MANIFEST_NAME = "splade_edge.json"
ARTIFACT_FORMAT = "splade-edge-artifact"
PAIR_FORMAT = "splade-edge-pair"
# 6 added `numerics`, `sides` and what else is applied to texts and weights, 5 `query_idf`, 4 encoders for our own
# kernels, 3 decoders beside graphs, 2 `kind` and tables
VERSION = 6

Role = Literal["query", "document", "both"]
Side = Literal["query", "document"]
Backend = Literal["onnx", "openvino", "kernel"]
Form = Literal["onnx", "openvino", "kernel", "table"]
# How a text becomes a vector. All but "encoder" give weight to the text's own terms alone: what the graph gives them
# ("masked encoder"), a stored weight ("look-up"), or 1 ("bag of words").
Kind = Literal["encoder", "masked encoder", "look-up", "bag of words"]
Precision = Literal["fp32", "int8"]
TruncationSide = Literal["right", "left"]
# L2, before or after the cut to the largest weights.
Normalization = Literal["none", "all terms", "kept terms"]
TokenizerFrom = Literal["class", "file"]
SIDES: tuple[Side, ...] = ("query", "document")
UNLIMITED = (1 << 31) - 1  # the `max_length` of an encoder that reads texts of any length
# The options of an export that make a form.
_FLAGS: dict[Form | None, list[str]] = {
    "onnx": ["--backend onnx"],
    "openvino": ["--backend openvino"],
    "kernel": ["--recipe onnx=kernel"],
}
_PREFERRED: tuple[Form, ...] = ("table", "kernel", "onnx", "openvino")
MAX_LENGTH = 1 << 16  # tokens of a text: attention takes memory by their square
INPUT_NAMES = ("input_ids", "attention_mask")
OUTPUT_NAME = "weights"
BODY_OUTPUT_NAMES = ("activations", "activation_scale")


class DecoderPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the int8 vocabulary decoder lies in an ONNX file, so that it can run outside the graph and for some terms.

    The first ``body`` bytes of the file are a graph of their own that ends before the decoder and gives
    ``activations`` (uint8 ``[batch, length, hidden]``, 1..255 around 128) and ``activation_scale`` (float32
    ``[batch, 1, 1]``). At these offsets in bytes lie ``weights`` (int8 ``[vocab, hidden]``, -127..127), ``scale`` and
    ``bias`` (float32 ``[vocab]``). A weight is the manifest's activation of ``activation_scale * scale`` times the
    largest product over the positions, plus ``bias``.
    """

    body: int
    hidden: int
    weights: int
    scale: int
    bias: int


class TransformerPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sizes of an encoder that runs in our own kernels: a BERT with its masked-language-model head.

    ``inner`` is the width between the two products of the feed-forward part, ``positions`` the longest text; ``tied``:
    the word embeddings are the decoder's rows. The file is laid out by :mod:`.encoder.native.transformer`.
    """

    layers: int
    hidden: int
    heads: int
    inner: int
    positions: int
    epsilon: float
    tied: bool


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One exported graph, or the table in its place.

    ``path`` is the file to load; ``recipe`` names how it was quantized ("" for fp32); ``isa`` the CPUs it is right on
    ("any", or "vnni": x86 with VNNI, and every other architecture); ``batch_invariant`` is false where a text's vector
    would depend on its batch neighbours, so that the runtime encodes one text at a time; ``decoder`` is where
    its vocabulary decoder lies, for graphs that can go without; ``transformer`` describes an encoder of form "kernel".
    """

    backend: Form
    precision: Precision
    path: str
    recipe: str
    isa: str
    batch_invariant: bool
    decoder: DecoderPart | None = None
    transformer: TransformerPart | None = None


class SideSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How texts of one side are read: ``prompt`` is put before each; ``max_length`` counts it and special tokens."""

    prompt: str = ""
    max_length: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an artifact comes from: checkpoint as the user named it, revision, SHA-256 of its weights, licence."""

    checkpoint: str
    revision: str
    weights_sha256: str
    licence: str


class ArtifactManifest(Manifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of one exported encoder.

    ``kind`` says how a text becomes a vector; ``pooling`` and ``activation`` are empty where no encoder does it.
    ``vocab_size`` is the width of the output; ``vocabulary_sha256`` identifies token -> term id (see
    :func:`splade_edge.runtime.encoder.tokenizer.vocabulary_sha256`); ``max_length`` counts special tokens and prompt,
    and is the largest of the sides'; ``dropped_terms`` are term ids whose weight the family sets to zero.
    ``query_idf``: the power of the inverse document frequency in an index that a search multiplies query weights with,
    unless it is told otherwise (see :func:`splade_edge.runtime.idf.idf_factors`).

    ``numerics``: see :mod:`splade_edge.runtime.numerics`. ``sides`` has an entry for each side that the encoder serves;
    none before version 6, when there were no prompts and one length. ``adds_special_tokens``: whether a text is read
    with special tokens; ``split_special_tokens``: whether those written in it are ordinary text. What is too long
    is cut at its ``truncation_side``. ``max_active_dims``: only so many largest weights are kept. ``tokenizer_from``:
    whether tokenizer.json is what the checkpoint's tokenizer class makes, or the checkpoint's own file. ``asked``: what
    the user overrode of what the checkpoint states, by the option of the export (``"--prompt-query"``).
    """

    role: Role
    family: str
    pooling: str
    activation: str
    vocab_size: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    vocabulary_sha256: str
    max_length: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    special_tokens: dict[str, Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]]
    dropped_terms: list[Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]]
    variants: list[Variant]
    source: Source
    made_by: str
    kind: Kind = "encoder"
    query_idf: Annotated[float, msgspec.Meta(ge=0, le=LARGEST_POWER)] = 0.0
    numerics: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    sides: dict[Side, SideSettings] = {}  # noqa: RUF012 - msgspec copies it
    adds_special_tokens: bool = True
    truncation_side: TruncationSide = "right"
    split_special_tokens: bool = False
    max_active_dims: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)] | None = None
    normalization: Normalization = "none"
    tokenizer_from: TokenizerFrom = "class"
    asked: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it


class PairManifest(Manifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of a pair: ``query`` and ``document`` are the directories of its two artifacts."""

    query: str
    document: str
    made_by: str


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk whose manifest was read; hashes are checked by :func:`open_artifact`."""

    path: Path
    manifest: ArtifactManifest

    def serves(self, side: Side) -> bool:
        """Whether this encoder is made for queries / documents."""
        return self.manifest.role in (side, "both")

    @property
    def sides(self) -> list[Side]:
        """The sides that this encoder is made for."""
        return [side for side in SIDES if self.serves(side)]

    def settings(self, side: Side) -> SideSettings:
        """How texts of a side are read."""
        found = self.manifest.sides.get(side)
        return SideSettings(max_length=self.manifest.max_length) if found is None else found

    def variant(self, backend: Form | None = None, precision: Precision | None = None) -> Variant:
        """The graph to run: as asked, else our kernels before ONNX before OpenVINO, and int8 before fp32. A table fits
        any question.

        Of graphs that differ in ``isa`` alone, this CPU decides; one that it computes wrongly is taken only if there is
        no other. Raises ArtifactError that lists what there is.
        """
        found = [
            v
            for v in self.manifest.variants
            if v.backend == "table" or (backend in (None, v.backend) and precision in (None, v.precision))
        ]
        if not found:
            have = ", ".join(f"{v.backend} {v.precision}" for v in self.manifest.variants)
            want = " ".join(x for x in (backend, precision) if x)
            flags = " ".join([*_FLAGS.get(backend, []), *([f"--{precision}"] if precision else [])])
            raise ArtifactError(
                f"{self.path} has no {want} graph (it has: {have}); choose one of these, or {export_again(flags)}"
            )
        runnable = [v for v in found if supports(v.isa)] or found
        return min(runnable, key=lambda v: (_PREFERRED.index(v.backend), v.precision != "int8", v.isa == "any"))

    def file(self, relative: str) -> Path:
        """Absolute path of a file of this artifact."""
        return safe_join(self.path, relative)


def open_artifact(path: str | Path, side: Side | None = None, *, check: bool = True) -> Artifact:
    """Open an artifact, or the ``side`` of a pair, and check the hash of every file.

    Raises ArtifactError (missing, too new, wrong role) or IntegrityError (damaged).
    """
    path = Path(path)
    with reading(path):
        directory = path.is_dir()
    if not directory:
        raise ArtifactError(
            f"{path} is not a directory; expected an exported artifact (see: splade-edge export --help)"
        )
    if is_pair(path):
        pair = read_manifest(
            path / MANIFEST_NAME, PairManifest, format=PAIR_FORMAT, version=VERSION, error=ArtifactError
        )
        if side is None:
            raise ArtifactError(
                f"{path} is a pair; name one of its encoders: {path / pair.query} or {path / pair.document}"
            )
        if check:
            check_hashes(path, pair.files)
        path = safe_join(path, pair.query if side == "query" else pair.document)
    manifest = read_manifest(
        path / MANIFEST_NAME, ArtifactManifest, format=ARTIFACT_FORMAT, version=VERSION, error=ArtifactError
    )
    _check_variants(path, manifest)
    artifact = Artifact(path, manifest)
    _check_sides(artifact)
    if side is not None and not artifact.serves(side):
        raise ArtifactError(f"{path} holds a {manifest.role} encoder, not a {side} encoder; name the pair's directory")
    if check:
        check_hashes(path, manifest.files)
    return artifact


def _check_sides(artifact: Artifact) -> None:
    """Raise ArtifactError where a manifest's ``sides`` do not fit the rest of it."""
    m, file = artifact.manifest, artifact.path / MANIFEST_NAME
    if m.max_length > MAX_LENGTH and m.kind in ("encoder", "masked encoder"):
        raise ArtifactError(
            f"{file} has a maximum length of {m.max_length}; an encoder reads at most {MAX_LENGTH} tokens: "
            f"{export_again('--max-length N')}"
        )
    for side, settings in m.sides.items():
        if not artifact.serves(side):
            raise ArtifactError(
                f"{file} has settings for a {side} side, but holds a {m.role} encoder; {export_again()}"
            )
        if settings.max_length > m.max_length:
            raise ArtifactError(
                f"{file} has a maximum length of {settings.max_length} for the {side} side, beyond the encoder's "
                f"{m.max_length}; {export_again()}"
            )
    for side in artifact.sides:
        if m.sides and side not in m.sides:
            raise ArtifactError(f"{file} has no settings for the {side} side that it serves; {export_again()}")


def _check_variants(path: Path, manifest: ArtifactManifest) -> None:
    """That the files of each graph are listed, and have room for the vocabulary: memory is taken for that. Raises
    IntegrityError.
    """
    for variant in manifest.variants:
        for name in ("tokenizer.json", *variant_files(variant)):
            if name not in manifest.files:
                raise IntegrityError(f"{path}: its manifest does not list {name}; copy or make {path} again")
        size = sum(manifest.files[name].size for name in variant_files(variant))
        if size < manifest.vocab_size:
            raise IntegrityError(
                f"{path}: {variant.path} has {size} bytes, too few for {manifest.vocab_size} terms; {export_again()}"
            )


def open_all(path: str | Path) -> list[Artifact]:
    """The one artifact of an artifact directory, or both of a pair, hashes checked."""
    if is_pair(Path(path)):
        return [open_artifact(path, "query"), open_artifact(path, "document")]
    return [open_artifact(path)]


def is_pair(path: Path) -> bool:
    """Whether a directory's manifest says that it is a pair. Raises StorageError where it may not be read."""
    try:
        with reading(path / MANIFEST_NAME):
            data = (path / MANIFEST_NAME).read_bytes()
        return bool(msgspec.json.decode(data, type=dict)["format"] == PAIR_FORMAT)
    except (*NOT_THERE, msgspec.MsgspecError, UnicodeDecodeError, KeyError, RecursionError):
        return False


def write_artifact_manifest(path: Path, manifest: ArtifactManifest) -> None:
    """List every file under ``path`` with size and SHA-256, and write the manifest last."""
    write_manifest(path / MANIFEST_NAME, msgspec.structs.replace(manifest, version=VERSION, files=_list_files(path)))


def write_pair_manifest(path: Path, *, query: str, document: str, made_by: str) -> None:
    """Write the manifest of a pair over its two finished artifacts and the files beside them."""
    files = {name: entry for name, entry in _list_files(path).items() if "/" not in name}
    for side in (query, document):
        name = f"{side}/{MANIFEST_NAME}"
        files[name] = describe_file(path / name)
    manifest = PairManifest(
        format=PAIR_FORMAT, version=VERSION, files=files, query=query, document=document, made_by=made_by
    )
    write_manifest(path / MANIFEST_NAME, manifest)


def variant_files(variant: Variant) -> Iterable[str]:
    """The files of one graph: OpenVINO keeps its weights in a ``.bin`` beside the ``.xml``."""
    yield variant.path
    if variant.backend == "openvino":
        yield variant.path.removesuffix(".xml") + ".bin"


def encoding_sha256(artifact: Artifact, variant: Variant, side: Side) -> str:
    """SHA-256 over all that decides which vector a text of a side gets from a graph: its files, the tokenizer, and how
    they are used. Two encoders with the same value give the same vectors.
    """
    m, text = artifact.manifest, artifact.settings(side)
    names = sorted({"tokenizer.json", *variant_files(variant)})
    what: dict[str, object] = {
        "files": {name: m.files[name].sha256 for name in names},
        "use": [m.kind, m.activation, text.max_length, m.dropped_terms, m.special_tokens, variant.batch_invariant],
    }
    if m.numerics:  # before, this was all, and an index that states it must find it again
        what["numerics"] = m.numerics
        what["text"] = [text.prompt, m.adds_special_tokens, m.truncation_side, m.split_special_tokens]
        what["weights"] = [m.max_active_dims, m.normalization]
    return hashlib.sha256(msgspec.json.encode(what, order="deterministic")).hexdigest()


def _list_files(path: Path) -> dict[str, FileEntry]:
    return {
        p.relative_to(path).as_posix(): describe_file(p)
        for p in sorted(path.rglob("*"))
        if p.is_file() and p != path / MANIFEST_NAME
    }
