"""Where the weights of a run start: whole or fewer layers of a checkpoint, a new head, or a narrow encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...runtime.errors import CheckpointError, InputError
from ..quiet import quiet_transformers
from ..weights import load_config, load_masked_lm
from .encoder import SparseEncoder
from .lexical_head import install_identity_head, install_lexical_head, lexical_map
from .settings import EncoderSettings
from .vocabulary import Texts, inverse_document_frequency, silent_terms

# So far below zero that no training step revives a silent term.
_SILENCE = -1000.0


def initial_encoder(settings: EncoderSettings, texts: Sequence[str], seed: int) -> SparseEncoder:
    """Make the encoder that a run starts with, in float32.

    Parameters
    ----------
    settings : EncoderSettings
        The encoder's table of the run file.
    texts : sequence of str
        Documents that a lexical head and its idf are fitted on.
    seed : int
        The seed of new weights.

    Returns
    -------
    SparseEncoder
        The encoder.

    Raises
    ------
    InputError
        If ``base`` cannot satisfy the settings.
    """
    torch.manual_seed(seed)
    tokens = Texts(settings.base)
    model = _narrow(settings) if settings.width else _wide(settings)
    encoder = SparseEncoder(model)
    size = encoder.decoder.weight.shape[0]
    largest = max(tokens.tokenizer.get_vocab().values(), default=-1)
    if largest >= size:
        raise InputError(f"{settings.base}: its tokenizer has term id {largest}, its model a vocabulary of {size}")
    silent = torch.from_numpy(silent_terms(tokens.tokenizer, settings.silent, size))
    if settings.head != "keep":
        sample = tokens.ids(texts, min(settings.max_length, encoder.positions))
        encoder.eval()
        if settings.head == "lexical":
            w, centre, own = lexical_map(encoder, sample, silent)
            install_lexical_head(encoder, w, centre, settings.sharpness / own)
        else:
            install_identity_head(encoder, settings.sharpness)
        idf = inverse_document_frequency(sample, size)
        with torch.no_grad():
            encoder.decoder.bias.copy_(settings.idf_slope * (idf - idf.median()) - settings.threshold)
            encoder.decoder.bias.mul_(settings.sharpness)
    if not settings.frozen:
        with torch.no_grad():
            encoder.decoder.bias[silent] = _SILENCE
    _freeze(model, settings)
    return encoder


def _freeze(model: Any, settings: EncoderSettings) -> None:
    names = [name for name, _ in model.named_parameters()]
    for part in settings.freeze:
        if not any(part in name for name in names):
            raise InputError(f"freeze = {part!r}: no parameter of {settings.base} has that in its name")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not settings.frozen and not any(part in name for part in settings.freeze)
    if not settings.frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"freeze leaves nothing of {settings.base} to train; say frozen = true if that is meant")


def _load(base: str, *, with_head: bool) -> Any:
    """The model of a directory in float32, without dropout. Only a head that will be replaced may be missing."""
    directory = Path(base)
    config = load_config(directory, trust_remote_code=False)
    if config.model_type not in ("bert", "distilbert"):
        raise InputError(f"{base} is a {config.model_type!r} model; training starts from BERT or DistilBERT")
    if with_head:
        try:
            model, _ = load_masked_lm(directory, config, allow_pickle=False, trust_remote_code=False)
        except CheckpointError as error:
            if "has no masked-language-model head" in str(error):
                raise CheckpointError(f'{base} has no head to keep; give it a new one: head = "lexical"') from error
            raise
    else:
        model = _load_body(directory, config)
    model.set_attn_implementation("sdpa")
    return _without_dropout(model)


def _load_body(directory: Path, config: Any) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForMaskedLM

    try:
        with quiet_transformers():  # that a sentence encoder has no head is no news here
            model, info = AutoModelForMaskedLM.from_pretrained(
                directory,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{directory} does not load: {' '.join(str(error).split())[:200]}") from error
    missing = [key for key in info["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
    if missing:
        raise CheckpointError(f"{directory} has no weights for {', '.join(sorted(missing)[:3])}")
    return model


def _without_dropout(model: Any) -> Any:
    # A few thousand steps do not overfit, and dropout would make the sparsity in training another than that in use.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    return model


def _wide(settings: EncoderSettings) -> Any:
    model = _load(settings.base, with_head=settings.head == "keep")
    body = model.base_model
    layers = body.encoder.layer if hasattr(body, "encoder") else body.transformer.layer
    kept = settings.layers if settings.layers is not None else list(range(len(layers)))
    if not kept or any(not 0 <= number < len(layers) for number in kept):
        raise InputError(f"layers = {kept}: {settings.base} has layers 0 to {len(layers) - 1}")
    new = torch.nn.ModuleList([layers[number] for number in kept])
    if hasattr(body, "encoder"):
        body.encoder.layer = new
        model.config.num_hidden_layers = len(kept)
    else:
        body.transformer.layer = new
        model.config.n_layers = len(kept)
    return model


def _narrow(settings: EncoderSettings) -> Any:
    """A small BERT whose word embeddings are principal components of those of ``base``; the rest is random."""
    from transformers import BertConfig, BertForMaskedLM

    if settings.head == "keep":
        raise InputError('width makes a new encoder, whose head must be new as well: head = "identity"')
    base = _load(settings.base, with_head=False)
    embeddings = base.get_input_embeddings().weight.detach().float()
    width = settings.width or 0
    if not 0 < width <= embeddings.shape[1] or width % settings.attention_heads:
        raise InputError(f"width = {width}: at most {embeddings.shape[1]}, a multiple of attention_heads")
    if settings.head == "lexical":
        raise InputError('head = "lexical" needs a trained encoder; a narrow one takes head = "identity"')
    config = BertConfig(
        vocab_size=embeddings.shape[0],
        hidden_size=width,
        num_hidden_layers=len(settings.layers or [0, 1]),
        num_attention_heads=settings.attention_heads,
        intermediate_size=4 * width,
        max_position_embeddings=base.config.max_position_embeddings,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        tie_word_embeddings=True,
    )
    if (power := getattr(base.config, "query_idf", None)) is not None:
        config.query_idf = power  # how a search treats the weights, whatever encoder they are of
    model = BertForMaskedLM(config)
    centred = embeddings - embeddings.mean(dim=0)
    _, values, basis = torch.linalg.svd(centred, full_matrices=False)
    components = centred @ basis[:width].T
    # Whitened, so that rare directions can be told apart as well, and of unit length on average.
    components = components / values[:width] * values[:width].mean()
    components = components / components.norm(dim=1).mean()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.copy_(components)
    model.tie_weights()
    return model
