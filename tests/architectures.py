"""A tiny random checkpoint of every masked-language-model architecture in transformers. Needs PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from splade_edge.models.options import OpenOptions

from . import checkpoints

HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 2, 64, 64
_SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "hidden_dropout_prob": 0.1,
}
_XLM = {"emb_dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "max_position_embeddings": POSITIONS}
_BART = {
    "d_model": HIDDEN, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS, "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER,
    "max_position_embeddings": POSITIONS,
}  # fmt: skip
_VISION = {
    "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": HEADS,
    "image_size": 32, "patch_size": 16,
}  # fmt: skip
_TEXT = {key: _SIZES[key] for key in _SIZES if key != "hidden_dropout_prob"}
_GROUPED = {"num_key_value_heads": HEADS, "head_dim": HIDDEN // HEADS}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": POSITIONS}
_SMALL = {key: value for key, value in _SIZES.items() if key != "hidden_dropout_prob"}

# Architectures whose positions count from the padding token's id + 1, so that the table has two rows more.
_SHIFTED = frozenset(
    {"camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
     "xlm-roberta", "xlm-roberta-xl", "xmod"}
)  # fmt: skip
# Those whose tokenizers have RoBERTa's special tokens: <s> 0, <pad> 1, </s> 2.
_ROBERTA_TOKENS = _SHIFTED | {
    "bart",
    "esmc",
    "gte",
    "jina_embeddings_v3",
    "mbart",
    "mra",
    "mvp",
    "nystromformer",
    "yoso",
}

# What a configuration needs besides, or in place of, the usual sizes. A case "TYPE/NAME" is a variant of TYPE.
_OWN: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "albert": {"embedding_size": 16, "num_hidden_groups": 1},
        "bart": _BART,
        "big_bird": {"attention_type": "original_full"},
        "big_bird/sparse": {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1},
        "convbert": {"embedding_size": HIDDEN, "conv_kernel_size": 3},
        "deberta": {**_DEBERTA, "type_vocab_size": 0},
        "deberta/new-head": {**_DEBERTA, "type_vocab_size": 0, "legacy": False},
        "deberta-v2": {**_DEBERTA, "position_biased_input": False, "share_att_key": True, "norm_rel_ebd": "layer_norm",
                       "position_buckets": 8, "type_vocab_size": 0},
        "deberta-v2/new-head": {**_DEBERTA, "legacy": False, "type_vocab_size": 0},
        "distilbert": {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": INNER,
                       "max_position_embeddings": POSITIONS},
        "electra": {"embedding_size": 16},
        "esm": {"position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": 4, "pad_token_id": 0},
        "esmc": _GROUPED,
        "eurobert": {**_GROUPED, "rope_theta": 10000.0},
        "flaubert": _XLM,
        "fnet": {"tpu_short_seq_length": POSITIONS},
        "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": HIDDEN, "n_head": HEADS,
                   "d_head": HIDDEN // HEADS, "d_inner": INNER},
        "longformer": {"attention_window": [8, 8]},
        "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
        "mbart": _BART,
        "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2},
        "modernbert": {"local_attention": 16},
        "modernvbert": {"text_config": {**_TEXT, "local_attention": 16}, "vision_config": _VISION},
        "mvp": _BART,
        "neomme": {**_GROUPED, "num_key_value_heads": 1, "embedding_rank": 16, "embedding_dim": 8, "sliding_window": 8,
                   "layer_types": ["sliding_attention", "full_attention"],
                   "per_layer_config": {"01": {"sliding_window": None}}},
        "nomic_bert": {"head_dim": HIDDEN // HEADS, "rope_theta": 1000.0},
        "nystromformer": {"num_landmarks": POSITIONS, "segment_means_seq_len": POSITIONS, "conv_kernel_size": 5},
        "nystromformer/landmarks": {"num_landmarks": 8, "segment_means_seq_len": POSITIONS, "conv_kernel_size": 5},
        "perceiver": {"num_latents": 8, "d_latents": HIDDEN, "d_model": HIDDEN, "num_self_attends_per_block": 1,
                      "num_self_attention_heads": HEADS, "num_cross_attention_heads": HEADS, "qk_channels": HIDDEN,
                      "v_channels": HIDDEN, "max_position_embeddings": POSITIONS},
        "reformer": {"attn_layers": ["local", "lsh"], "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16],
                     "feed_forward_size": INNER, "attention_head_size": 16, "local_attn_chunk_length": 8,
                     "lsh_attn_chunk_length": 8, "num_buckets": 4, "is_decoder": False},
        "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
        "roc_bert": {"pronunciation_embed_dim": 8, "pronunciation_vocab_size": 20, "shape_embed_dim": 8,
                     "shape_vocab_size": 20},
        "roformer": {"embedding_size": HIDDEN},
        "squeezebert": {"embedding_size": HIDDEN},
        "tapas": {"max_position_embeddings": POSITIONS},
        "ultrabert": {**_GROUPED, "sliding_window": 8, "prediction_head_size": 24,
                      "layer_types": ["sliding_attention", "full_attention"]},
        "ultravbert": {"text_config": {**_TEXT, **_GROUPED, "sliding_window": 8, "prediction_head_size": 24,
                                       "layer_types": ["sliding_attention", "full_attention"]},
                       "vision_config": _VISION},
        "xlm": _XLM,
        "xmod": {"default_language": "en_XX"},
        "yoso": {"hash_code_len": 4, "num_hash": 8},
    }
)  # fmt: skip
# Those whose configuration has other names for the usual sizes.
_WITHOUT_SIZES = frozenset(
    {"bart", "distilbert", "flaubert", "funnel", "mbart", "modernvbert", "mvp", "perceiver", "ultravbert", "xlm"}
)
REQUIRED = (
    "bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "deberta", "deberta/new-head", "deberta-v2",
    "deberta-v2/new-head", "albert", "electra", "modernbert", "eurobert", "nomic_bert", "gte", "jina_embeddings_v3",
)  # fmt: skip


def all_types() -> list[str]:
    """Every model type of transformers with a masked-language-model head, and our variants of some."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return sorted({*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *_OWN})


def tokenizer(case: str) -> Any:
    """The tokenizer of a case: byte-level BPE where it has RoBERTa's special tokens, else WordPiece."""
    return checkpoints.tokenizer("roberta" if case.partition("/")[0] in _ROBERTA_TOKENS else "bert")


def config(case: str, **changes: Any) -> Any:
    """The configuration of a tiny model."""
    model_type = case.partition("/")[0]
    words = tokenizer(case)
    common = {
        "vocab_size": len(words), "pad_token_id": words.pad_token_id, "bos_token_id": words.cls_token_id,
        "eos_token_id": words.sep_token_id, "cls_token_id": words.cls_token_id, "sep_token_id": words.sep_token_id,
    }  # fmt: skip
    if model_type in ("modernvbert", "ultravbert"):
        common = {"text_config": common, "image_token_id": len(words) - 1}
    sizes = {} if model_type in _WITHOUT_SIZES else dict(_SIZES if model_type in _WITH_DROPOUT else _SMALL)
    if model_type in _SHIFTED:
        sizes["max_position_embeddings"] = POSITIONS + 2
    settings: dict[str, Any] = {**sizes, **common}
    for key, value in _OWN.get(case, {}).items():
        settings[key] = {**value, **settings[key]} if key == "text_config" else value
    return transformers.AutoConfig.for_model(model_type, **{**settings, **changes})


_WITH_DROPOUT: frozenset[str] = frozenset()


def write(path: Path, case: str, *, seed: int = 0, max_length: int | None = None, **changes: Any) -> Path:
    """A random model of ``case`` whose SPLADE vectors differ from text to text and have zeros."""
    torch.manual_seed(seed)
    settings = config(case, **changes)
    model: Any = transformers.AutoModelForMaskedLM.from_config(settings).eval()
    vocabulary = int(settings.get_text_config().vocab_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
            elif len(parameter) == vocabulary:
                parameter.copy_(torch.randn(vocabulary) * 0.3 - 0.9)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.05)
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":  # BART's bias after its decoder
                buffer.normal_(-0.9, 0.3)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(path)
    words = tokenizer(case)
    words.model_max_length = max_length or POSITIONS
    words.save_pretrained(path)
    return path


def options(**more: Any) -> OpenOptions:
    """How a plain checkpoint of any type is opened."""
    return OpenOptions(**{"licence": "none", **more})


def transformers_vectors(path: Path, texts: list[str], max_length: int = POSITIONS) -> npt.NDArray[np.float32]:
    """Float32 ``[len(texts), vocab]``: max over positions of log(1 + relu(logits)) of transformers' own model, one text
    at a time.
    """
    model: Any = transformers.AutoModelForMaskedLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    words = transformers.AutoTokenizer.from_pretrained(path)
    rows = []
    for text in texts:
        encoded = words(text, truncation=True, max_length=max_length, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            logits = model.eval()(**encoded).logits
        rows.append(torch.log1p(torch.relu(logits)).amax(1)[0].float().numpy())
    return np.stack(rows)


def digest(text: str) -> int:
    """A seed that is the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
