"""Tiny random masked-language models on disk, in every layout that a checkpoint can have. Needs PyTorch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# Two threads on operations this small mostly wait for each other, the more so beside other processes.
torch.set_num_threads(1)

WORDS = (  # noqa: SIM905
    "the a of in and is was when did who what how many country oil crisis began prime number steam engine warsaw "
    "kenya oxygen force pharmacy network packet tesla war king year first new other only ##s ##ing ##ed 1 2 3 4 5"
).split()
SIZE = {"hidden": 32, "layers": 1, "heads": 2, "intermediate": 48, "positions": 64}


def tokenizer(architecture: str = "bert") -> PreTrainedTokenizerFast:
    """Uncased WordPiece over WORDS; byte-level BPE for RoBERTa and ModernBERT, special tokens where they have them."""
    if architecture in ("roberta", "modernbert"):
        return _byte_level(architecture)
    words = [*BERT_SPECIAL, *WORDS]
    inner = Tokenizer(models.WordPiece({token: i for i, token in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _finished(inner, BERT_SPECIAL)


def _byte_level(architecture: str) -> PreTrainedTokenizerFast:
    special = ROBERTA_SPECIAL if architecture == "roberta" else BERT_SPECIAL
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # RoBERTa's special tokens come first (<s>, <pad>, </s>, <unk>), ModernBERT's last.
    first = [special[i] for i in (2, 0, 3, 1, 4)] if architecture == "roberta" else []
    trainer = trainers.BpeTrainer(
        vocab_size=len(first) + len(alphabet) + 60, initial_alphabet=alphabet, special_tokens=first, show_progress=False
    )
    inner.train_from_iterator([" ".join(WORDS)] * 2, trainer)
    inner.add_special_tokens([AddedToken(token, special=True) for token in special])
    return _finished(inner, special)


def _finished(inner: Tokenizer, special: tuple[str, ...]) -> PreTrainedTokenizerFast:
    pad, unk, cls, sep, mask = special
    inner.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(token, inner.token_to_id(token)) for token in (cls, sep)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, unk_token=unk, cls_token=cls, sep_token=sep, mask_token=mask
    )


BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
VOCABULARY = len(WORDS) + 5


def vocabulary(architecture: str) -> int:
    """Vocabulary size of a tiny model. ModernBERT's is larger than its tokenizer's."""
    if architecture in ("bert", "distilbert"):
        return VOCABULARY
    return len(tokenizer(architecture)) + (3 if architecture == "modernbert" else 0)


def config(architecture: str, *, tied: bool = True, intermediate: int = SIZE["intermediate"]) -> Any:
    """The configuration of a tiny ``bert``, ``distilbert``, ``roberta`` or ``modernbert`` model."""
    common = {"vocab_size": vocabulary(architecture), "tie_word_embeddings": tied}
    bert = {
        "hidden_size": SIZE["hidden"],
        "num_hidden_layers": SIZE["layers"],
        "num_attention_heads": SIZE["heads"],
        "intermediate_size": intermediate,
    }
    if architecture == "bert":
        return transformers.BertConfig(**common, **bert, max_position_embeddings=SIZE["positions"])
    if architecture == "roberta":
        # Positions count from pad_token_id + 1.
        positions = SIZE["positions"] + 2
        return transformers.RobertaConfig(
            **common, **bert, max_position_embeddings=positions, pad_token_id=1, bos_token_id=0, eos_token_id=2
        )
    if architecture == "modernbert":
        ids = {
            name: tokenizer("modernbert").convert_tokens_to_ids(f"[{name.upper()}]") for name in ("cls", "sep", "pad")
        }
        return transformers.ModernBertConfig(
            **common, **bert, max_position_embeddings=SIZE["positions"], pad_token_id=ids["pad"],
            bos_token_id=ids["cls"], eos_token_id=ids["sep"], cls_token_id=ids["cls"], sep_token_id=ids["sep"],
            local_attention=16,
        )  # fmt: skip
    return transformers.DistilBertConfig(
        **common,
        dim=SIZE["hidden"],
        n_layers=SIZE["layers"],
        n_heads=SIZE["heads"],
        hidden_dim=intermediate,
        max_position_embeddings=SIZE["positions"],
    )


def write_checkpoint(
    path: Path,
    architecture: str = "bert",
    *,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    max_length: int | None = 32,
    intermediate: int = SIZE["intermediate"],
) -> Path:
    """A random masked-language model whose SPLADE vectors are sparse and differ from text to text.

    ``intermediate`` of a multiple of 32 makes one that runs in our kernels too.
    """
    torch.manual_seed(seed)
    model = transformers.AutoModelForMaskedLM.from_config(
        config(architecture, tied=tied, intermediate=intermediate)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
        decoder = model.get_output_embeddings()
        # Spread, and mostly negative: about one term in five is active.
        decoder.bias.copy_(torch.randn(len(decoder.bias)) * 0.3 - 0.9)
        head = getattr(getattr(model, "cls", None), "predictions", getattr(model, "lm_head", None))
        if isinstance(getattr(head, "bias", None), torch.nn.Parameter):
            head.bias.copy_(decoder.bias)
    transformers.utils.logging.disable_progress_bar()
    model.to(dtype).save_pretrained(path)
    saved = tokenizer(architecture)
    if max_length is not None:
        saved.model_max_length = max_length
    saved.save_pretrained(path)
    return path


def write_pair(path: Path, architecture: str = "bert") -> Path:
    """``query/`` and ``document/`` with a README, as models/default."""
    for seed, side in enumerate(("query", "document")):
        write_checkpoint(path / side, architecture, seed=seed)
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    return path


def write_hub_pair(path: Path, own: str, other: str, *, router: bool) -> Path:
    """The Efficient SPLADE hub layout: ``own`` side at the root (seed 0), ``other`` below (seed 1)."""
    write_checkpoint(path, "distilbert", seed=0)
    write_checkpoint(path / f"{other}_0_MLMTransformer", "bert", seed=1)
    if router:
        names = {side: [f"{side}_0_MLMTransformer", f"{side}_1_SpladePooling"] for side in (own, other)}
        types = {name: f"sentence_transformers.x.{name.rpartition('_')[2]}" for both in names.values() for name in both}
        write_json(path / "router_config.json", {"types": types, "structure": names, "parameters": {}})
        write_json(path / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.Router"}])
        for side in (own, other):
            write_pooling(path / f"{side}_1_SpladePooling")
    return path


def write_sentence_transformers(path: Path, *, pooling: str = "max", activation: str = "relu", **options: Any) -> Path:
    """One encoder in the layout of sentence-transformers."""
    write_checkpoint(path, **options)
    types = ("sentence_transformers.sparse_encoder.models.MLMTransformer.MLMTransformer", "somewhere.SpladePooling")
    paths = ("", "1_SpladePooling")
    modules = [
        {"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(zip(paths, types, strict=True))
    ]
    write_json(path / "modules.json", modules)
    write_json(path / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    write_pooling(path / "1_SpladePooling", pooling, activation)
    return path


def write_look_up_router(
    path: Path, module: str, weights: Sequence[float] | None = None, *, masked: bool = False, **options: Any
) -> Path:
    """A document encoder whose query side is a table (default: 2 for every term), or its own output masked by one."""
    from safetensors.torch import save_file

    write_checkpoint(path / "document_0_MLMTransformer", **options)
    write_pooling(path / "document_1_SpladePooling")
    table = path / f"query_0_{module}"
    table.mkdir()
    size = vocabulary(options.get("architecture", "bert"))
    save_file({"weight": torch.tensor([2.0] * size if weights is None else weights)}, table / "model.safetensors")
    encoder = ["document_0_MLMTransformer", "document_1_SpladePooling"]
    structure = {"query": [*(encoder if masked else []), f"query_0_{module}"], "document": encoder}
    types = {name: f"x.y.{name.rpartition('_')[2]}" for names in structure.values() for name in names}
    write_json(path / "router_config.json", {"types": types, "structure": structure, "parameters": {}})
    return path


def write_idf(path: Path, architecture: str = "distilbert", **options: Any) -> dict[str, float]:
    """A plain checkpoint with ``idf.json`` over some of its tokens, special ones too, as OpenSearch's; returns that."""
    write_checkpoint(path, architecture, **options)
    tokens = tokenizer(architecture).get_vocab()
    idf = {token: 1 + term / 16 for token, term in tokens.items() if term % 3}
    write_json(path / "idf.json", idf)
    return idf


def write_pooling(path: Path, pooling: str = "max", activation: str = "relu") -> None:
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", {"pooling_strategy": pooling, "activation_function": activation})


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def edit_weights(path: Path, edit: Any) -> Path:
    """Rewrite ``model.safetensors`` with ``edit(tensors)`` applied in place."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def to_pickle(path: Path) -> Path:
    """Replace safetensors by the pickle that older checkpoints have."""
    from safetensors.torch import load_file

    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    return path


def to_shards(path: Path) -> Path:
    """Split the weights into two shards with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, path / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in shards.items() for name in part}
    write_json(path / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})
    (path / "model.safetensors").unlink()
    return path


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))
