"""The section of a card for people who run a graph themselves: its inputs, its output, and what is done outside."""

from __future__ import annotations

from ..runtime.artifact import SIDES, UNLIMITED, ArtifactManifest, Side, Variant

_OUTSIDE = """\
## The graph by itself

For those who run a graph in an engine of their own. Inputs are `input_ids` and `attention_mask`, int64
`[batch, length]`, padded on the right with ids that the mask leaves out{alone}; the output is `weights`, float32
`[batch, vocabulary]`. Pooling and activation are inside. What is done outside of it, in this order:
{steps}."""


def raw_graph_section(manifest: ArtifactManifest) -> list[str]:
    """The section of a card that says how to run the graph without this runtime.

    Parameters
    ----------
    manifest : ArtifactManifest
        The artifact's manifest.

    Returns
    -------
    list of str
        Lines of Markdown: inputs, outputs, and Python that gives the runtime's vector, for each side that is read
        differently. Empty without an ONNX graph.
    """
    variant = _variant(manifest)
    if variant is None:
        return []
    alone = "" if variant.batch_invariant else " (give it one text at a time: its vectors depend on padding)"
    sides: list[Side] = [side for side in SIDES if side in manifest.sides]
    if len({repr(settings) for settings in manifest.sides.values()}) == 1:
        sides = sides[:1]
    lines = _OUTSIDE.format(alone=alone, steps="; ".join(_steps(manifest, sides[0]))).splitlines()
    for side in sides:
        if len(sides) > 1:
            lines += ["", f"A {side}: {'; '.join(_steps(manifest, side))}."]
        lines += ["", "```python", *example(manifest, variant, side), "```"]
    return [*lines, ""]


def _variant(manifest: ArtifactManifest) -> Variant | None:
    """The ONNX graph that an example is for: float32 if it was kept."""
    found = [v for v in manifest.variants if v.backend == "onnx"]
    return min(found, key=lambda v: v.precision != "fp32", default=None)


def _steps(manifest: ArtifactManifest, side: Side) -> list[str]:
    settings = manifest.sides[side]
    cut = "" if settings.max_length == UNLIMITED else f" cut to {settings.max_length} tokens"
    where = " on the left" if cut and manifest.truncation_side == "left" else ""
    return [
        *([f"the prompt {settings.prompt!r} is put before the text"] if settings.prompt else []),
        f"the tokenizer reads it,{cut}{where}" if cut else "the tokenizer reads it",
        *(["all weights but those of the text's own terms become 0"] if manifest.kind == "masked encoder" else []),
        *(["the weights of some terms become 0"] if manifest.dropped_terms else []),
        *(["the vector is divided by its L2 norm"] if manifest.normalization == "all terms" else []),
        *([f"only the {manifest.max_active_dims} largest weights are kept"] if manifest.max_active_dims else []),
        *(["the vector is divided by its L2 norm"] if manifest.normalization == "kept terms" else []),
    ]


def example(manifest: ArtifactManifest, variant: Variant, side: Side) -> list[str]:
    """Python that computes ``weights`` of one ``text``, to be run in the artifact's directory.

    Parameters
    ----------
    manifest : ArtifactManifest
        The artifact's manifest.
    variant : Variant
        The ONNX graph to run.
    side : {"query", "document"}
        The side that the text is encoded as.

    Returns
    -------
    list of str
        The lines of the program.
    """
    settings = manifest.sides[side]
    prompt = f"{settings.prompt!r} + text" if settings.prompt else "text"
    encode = f"tokenizer.encode({prompt}" + ("" if manifest.adds_special_tokens else ", add_special_tokens=False") + ")"
    direction = ', direction="left"' if manifest.truncation_side == "left" else ""
    norm = "weights /= max(np.linalg.norm(weights), 1e-12)"
    return [
        "import numpy as np, onnxruntime, tokenizers",
        'tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")',
        *(["tokenizer.encode_special_tokens = True"] if manifest.split_special_tokens else []),
        *(
            [f"tokenizer.enable_truncation({settings.max_length}{direction})"]
            if settings.max_length < UNLIMITED
            else []
        ),
        f'session = onnxruntime.InferenceSession("{variant.path}")',
        'text = "what is learned sparse retrieval?"',
        f"ids = np.array([{encode}.ids])",
        '[[weights]] = session.run(["weights"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})',
        *(["weights[np.setdiff1d(np.arange(weights.size), ids)] = 0"] if manifest.kind == "masked encoder" else []),
        *([f"weights[{manifest.dropped_terms}] = 0"] if manifest.dropped_terms else []),
        *([norm] if manifest.normalization == "all terms" else []),
        *(
            [f"weights[np.argsort(-weights, kind='stable')[{manifest.max_active_dims}:]] = 0"]
            if manifest.max_active_dims
            else []
        ),
        *([norm] if manifest.normalization == "kept terms" else []),
        "print({tokenizer.id_to_token(term): float(weights[term]) for term in np.flatnonzero(weights).tolist()})",
    ]
