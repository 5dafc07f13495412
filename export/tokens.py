"""Does the artifact's tokenizer give the ids that the library gives? Asked before any vector: it explains most."""

from __future__ import annotations

from collections.abc import Iterator

from ..models.checkpoint import Checkpoint
from ..models.layout import Side
from ..models.tokenizing import disagreement
from ..runtime.artifact import Artifact
from ..runtime.encoder.tokenizer import TextTokenizer
from ..runtime.errors import CheckpointError, ParityError
from .texts import SampleTexts, corner_texts
from .witness import Witness


def check_choice(checkpoint: Checkpoint, samples: SampleTexts) -> None:
    """Check that a checkpoint's tokenizer is not ambiguous.

    Parameters
    ----------
    checkpoint : Checkpoint
        The checkpoint.
    samples : SampleTexts
        The texts to compare on.

    Raises
    ------
    CheckpointError
        If ``tokenizer.json`` and the class that transformers builds read a text differently and the user has not said
        which one to take; or if the encoder gets token types, which an exported graph does not take.
    """
    texts = [text for _, text in _texts(checkpoint, samples)]
    text = None if checkpoint.options.tokenizer else disagreement(checkpoint.loaded, texts)
    if text is not None:
        kind = type(checkpoint.tokenizer).__name__
        raise CheckpointError(
            f"{checkpoint.loaded.file} and transformers' {kind}, which is built without parts of that file, read the "
            f"text {_shown(text)} otherwise: pass --tokenizer class if the encoder was trained with transformers 5 or "
            "is to be as sentence-transformers reads it, --tokenizer file if with an earlier release or another library"
        )
    if int(getattr(getattr(checkpoint.model, "config", None), "type_vocab_size", 0) or 0) > 1:
        text = next((text for text in texts if checkpoint.uses_token_types(text)), None)
        if text is not None:
            raise CheckpointError(
                f"the tokenizer of {checkpoint.directory} gives tokens of the text {_shown(text)} another type than 0 "
                "(token_type_ids), which an exported graph does not take; give its post-processor type 0 throughout, "
                "if the encoder was trained so"
            )


def check_tokens(checkpoint: Checkpoint, artifact: Artifact, samples: SampleTexts, witness: Witness) -> None:
    """Compare the token ids of the artifact, as the runtime computes them, with the witness's.

    Parameters
    ----------
    checkpoint : Checkpoint
        The checkpoint.
    artifact : Artifact
        The artifact with its ``tokenizer.json``.
    samples : SampleTexts
        The texts to compare on; those that the witness fails on are left out.
    witness : Witness
        What to compare with.

    Raises
    ------
    ParityError
        If the ids of a text differ.
    """
    readers = {side: TextTokenizer.of(artifact, side) for side in checkpoint.sides}
    for side, text in _texts(checkpoint, samples):
        expected = witness.token_ids(text, side)
        if expected is None:
            continue
        found = readers[side].encode(text).ids
        # The library itself may fail on a text, such as one that it cuts beyond the model's positions: no answer then.
        if found != expected and witness.encode(text, side) is not None:
            raise ParityError(
                f"the tokenizer of the {side} side reads the text {_shown(text)} as {_ids(found)}, {witness.name} as "
                f"{_ids(expected)}; nothing was written: report the tokenizer",
                output=f"{checkpoint.role}/tokenizer.json",
                error=float("inf"),
                text=text,
            )


def _texts(checkpoint: Checkpoint, samples: SampleTexts) -> Iterator[tuple[Side, str]]:
    for side in checkpoint.sides:
        for text in (*samples.queries, *samples.documents, *samples.odd, *corner_texts(checkpoint, side)):
            yield side, text


def _shown(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[:length] + "…")


def _ids(ids: list[int], count: int = 8) -> str:
    more = f", … ({len(ids)} tokens)" if len(ids) > count else ""
    return f"[{', '.join(map(str, ids[:count]))}{more}]"
