"""Every file and key of a checkpoint, with what it does to a vector: applied, without effect, or refused.

Nothing that a checkpoint states is ignored in silence. :func:`account` walks the configuration files of one side and
looks each key up in :data:`KEYS`. What is refused raises; what stands in no row is returned, for the caller to
refuse, or to warn of where the library that made the checkpoint gives the same vectors all the same.

Rows were read off sentence-transformers 6.2.0 and transformers 5.23.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from ..runtime.errors import CheckpointError
from .layout import EncoderFiles
from .modules import CONFIG, MODEL, MODULES, NORMALIZE, POOLING, ROUTER, TABLES, TRANSFORMER_FILES, read_json

Effect = Literal["applied", "no effect", "refused"]
_MODULE = "{}/config.json"
_TRANSFORMER = TRANSFORMER_FILES[0]


@dataclass(frozen=True)
class Key:
    """One row: ``keys`` (globs) of ``file``, and ``what`` they do.

    A refused key with one of the values ``harmless`` does nothing; ``fix`` is the way out. ``besides`` describes keys
    that a class of transformers names.
    """

    file: str
    keys: tuple[str, ...]
    effect: Effect
    what: str
    harmless: tuple[object, ...] = (None,)
    fix: str = "remove it, if the encoder was trained without it"
    besides: str = ""


def _row(file: str, keys: str, effect: Effect, what: str, **more: Any) -> Key:
    return Key(file, tuple(keys.split()), effect, what, **more)


_TEXT_ONLY: dict[str, Any] = {"text": {"method": "forward", "method_output_name": "logits"}}
KEYS: tuple[Key, ...] = (
    _row(MODULES, "path type", "applied", "which modules a text passes, in order"),
    _row(MODULES, "idx name kwargs", "no effect", "bookkeeping; names of arguments of a call"),
    _row(ROUTER, "types structure", "applied", "the modules of each route"),
    _row(ROUTER, "parameters.route_mappings", "applied", "which route the texts of a side take"),
    _row(
        ROUTER,
        "parameters.default_route parameters.allow_empty_key parameters",
        "no effect",
        "for texts that are of neither side",
    ),
    _row(MODEL, "prompts", "applied", '"query" and "document" are put before the texts of that side, others are dead'),
    _row(MODEL, "default_prompt_name", "no effect", "both sides have a prompt of their own, if only an empty one"),
    _row(MODEL, "max_active_dims", "applied", "only so many of the largest weights are kept"),
    _row(MODEL, "similarity_fn_name", "applied", "cosine: vectors are normalized; others than dot are refused"),
    _row(MODEL, "model_type", "applied", "SparseEncoder; others are refused"),
    _row(MODEL, "__version__ requirements", "no effect", "of the libraries"),
    _row(_TRANSFORMER, "max_seq_length", "applied", "the limit of a text in tokens, instead of the tokenizer's"),
    _row(_TRANSFORMER, "query_length document_length", "applied", "the limit for texts of that side"),
    _row(_TRANSFORMER, "processing_kwargs", "applied", "max_length of text; what else would change tokens is refused"),
    _row(_TRANSFORMER, "do_lower_case", "applied", "text is lower-cased before the tokenizer's own normalization"),
    _row(_TRANSFORMER, "transformer_task", "applied", "fill-mask; others are refused"),
    _row(_TRANSFORMER, "tokenizer_args processor_kwargs", "applied", "given to the tokenizer when it is loaded"),
    _row(
        _TRANSFORMER,
        "modality_config",
        "refused",
        "other inputs than text, or text as chat messages",
        harmless=(None, _TEXT_ONLY),
        fix="save the encoder with text alone",
    ),
    _row(_TRANSFORMER, "module_output_name", "refused", "where the logits go", harmless=(None, "token_embeddings")),
    _row(_TRANSFORMER, "query_expansion", "refused", "queries are filled up with mask tokens"),
    _row(_TRANSFORMER, "tokenizer_name_or_path", "refused", "the tokenizer of another checkpoint", fix="copy it here"),
    _row(
        _TRANSFORMER,
        "model_args model_kwargs config_args config_kwargs",
        "refused",
        "arguments of the model or its configuration",
        harmless=(None, {}),
        fix="put them into config.json, and remove them",
    ),
    _row(_TRANSFORMER, "unpad_inputs", "no effect", "how batches are laid out in memory"),
    _row(_MODULE.format(POOLING), "pooling_strategy activation_function", "applied", "see the families"),
    _row(
        _MODULE.format(POOLING),
        "embedding_dimension word_embedding_dimension chunk_size",
        "no effect",
        "sizes that follow from the model",
    ),
    _row(_MODULE.format("SparseStaticEmbedding"), "path", "applied", "a JSON file of token -> weight"),
    _row(_MODULE.format("SparseStaticEmbedding"), "frozen", "no effect", "for training"),
    _row(
        _MODULE.format(NORMALIZE),
        "module_input_name module_output_name",
        "refused",
        "normalizes something else than vectors",
        harmless=(None, "sentence_embedding"),
    ),
    _row(CONFIG, "", "applied", "by transformers", besides="the keys of the architecture's configuration class"),
    _row(CONFIG, "architectures model_type tie_weights_", "applied", "which model, and which of its matrices are one"),
    _row(
        CONFIG,
        "per_layer_config rope_theta rope_scaling global_rope_theta local_rope_theta partial_rotary_factor",
        "applied",
        "by transformers for every class, under newer names where there are some",
    ),
    _row(
        CONFIG,
        "classifier_activation classifier_bias *_token_id",
        "applied",
        "by transformers: ModernBERT's head; positions counted from the padding token (RoBERTa), shifts (BART)",
    ),
    _row(CONFIG, "auto_map", "applied", "code of the checkpoint, with --trust-remote-code alone"),
    _row(CONFIG, "query_idf", "applied", "what splade-edge train writes: see --query-idf"),
    _row(CONFIG, "tokenizer_class", "applied", "where tokenizer_config.json has none"),
    _row(
        CONFIG,
        "quantization_config compression_config",
        "refused",
        "weights that are quantized already",
        harmless=(None, {}),
        fix="export the checkpoint it was made from; int8 is made here",
    ),
    _row(
        CONFIG,
        "position_embedding_type",
        "refused",
        "relative positions, which transformers 5 has dropped and would not compute",
        harmless=(None, "absolute"),
        fix="export it with the library it was trained with",
    ),
    _row(CONFIG, "dtype torch_dtype", "no effect", "the reference is float32; the card says how far half precision is"),
    _row(
        CONFIG,
        "transformers_version _name_or_path name_or_path _commit_hash use_cache return_dict output_* torchscript "
        "use_bfloat16 tf_legacy_loss gradient_checkpointing id2label label2id num_labels problem_type finetuning_task "
        "task_specific_params classifier_* summary_* pooler_* directionality attn_implementation _attn_implementation* "
        "_experts_implementation seq_classif_dropout qa_dropout initializer_range",
        "no effect",
        "for training, other heads, generation and other formats",
        besides="parameters of text generation",
    ),
    _row("tokenizer_config.json", "model_max_length max_len", "applied", "the limit of a text in tokens"),
    _row("tokenizer_config.json", "truncation_side", "applied", "which end of a long text is cut"),
    _row("tokenizer_config.json", "split_special_tokens", "applied", "whether [SEP] in a text is text"),
    _row(
        "tokenizer_config.json",
        "tokenizer_class auto_map do_lower_case strip_accents tokenize_chinese_chars do_basic_tokenize never_split "
        "add_prefix_space trim_offsets keep_accents remove_space legacy vocab_type sp_model_kwargs add_bos_token "
        "add_eos_token use_fast use_default_system_prompt word_tokenizer_type subword_tokenizer_type do_word_tokenize "
        "do_subword_tokenize mecab_kwargs sudachi_kwargs jumanpp_kwargs split_by_punct unk_id added_tokens_decoder "
        "additional_special_tokens extra_special_tokens model_specific_special_tokens *_token model_input_names "
        "vocab_file merges_file spm_file",
        "applied",
        "by the tokenizer's class; the exported tokenizer gives the ids it gives",
    ),
    _row(
        "tokenizer_config.json",
        "padding_side padding pad_to_multiple_of pad_token_type_id max_length stride truncation "
        "truncation_strategy clean_up_tokenization_spaces spaces_between_special_tokens name_or_path tokenizer_file "
        "special_tokens_map_file from_slow backend is_local local_files_only _commit_hash _name_or_path token "
        "transformers_version",
        "no effect",
        "of padding, decoding and loading, and settings of calls that were",
    ),
    _row(
        "tokenizer_config.json",
        "chat_template",
        "refused",
        "a plain checkpoint with one is given chat messages by sentence-transformers",
        fix="remove it, or save the encoder with sentence-transformers",
    ),
    _row("tokenizer_config.json", "processor_class", "refused", "inputs go through a processor of several modalities"),
    _row("special_tokens_map.json", "*", "applied", "by the tokenizer's class"),
    _row("added_tokens.json", "*", "applied", "by the tokenizer's class"),
    _row("adapter_config.json", "*", "applied", "by peft, which merges the adapter into its base"),
)
# Files that are read as a whole, by the libraries or by us.
FILES: tuple[Key, ...] = (
    _row(
        "tokenizer.json vocab.json vocab.txt merges.txt model.safetensors.index.json pytorch_model.bin.index.json "
        "idf.json",
        "*",
        "applied",
        "",
    ),
    _row(
        "generation_config.json training.json trainer_state.json training_args.json all_results.json "
        "train_results.json eval_results.json similarity_evaluation_results.json",
        "*",
        "no effect",
        "",
    ),
    _row(
        "processor_config.json preprocessor_config.json video_preprocessor_config.json",
        "*",
        "refused",
        "inputs of other modalities than text",
        fix="remove it if the encoder takes text alone",
    ),
    _row(
        "quantize_config.json quant_config.json",
        "*",
        "refused",
        "weights that are quantized already",
        fix="export the checkpoint it was made from; int8 is made here",
    ),
)


def account(files: EncoderFiles, config: Any | None, look_up: str | None = None) -> tuple[str, ...]:
    """Look up every key and file of one side in the table of what is known.

    Parameters
    ----------
    files : EncoderFiles
        The files of the side.
    config : transformers.PretrainedConfig or None
        The configuration of its encoder, None for a table, which has none.
    look_up : str, optional
        The name of the table's file, where a family gives it.

    Returns
    -------
    tuple of str
        What stands in no row, each as ``"file: key"``.

    Raises
    ------
    CheckpointError
        For the first key that is refused; the message names the file, the key and the way out.
    """
    unknown: list[str] = []
    for name, path in _configurations(files):
        if name == CONFIG and config is None:
            continue
        stated = read_json(path)
        if name == MODULES:
            stated = {key: None for module in stated for key in module}
        if not isinstance(stated, dict):
            continue
        for key, value in _flat(stated, deep=name == ROUTER):
            if name == "tokenizer_config.json" and key == "chat_template" and files.modules:
                continue  # a saved encoder says itself what it takes
            unknown += _one(name, path, key, value, config)
    for directory in {files.directory, files.library_root}:
        for path in sorted(directory.glob("*.json")):
            unknown += [] if path.name == look_up else _file(path)
    return tuple(dict.fromkeys(unknown))


def unread(files: EncoderFiles) -> list[str]:
    """List the files of sentence-transformers that nothing reads, because there is no ``modules.json``.

    Parameters
    ----------
    files : EncoderFiles
        The files of a side.

    Returns
    -------
    list of str
        Their names.
    """
    if files.modules:
        return []
    names = [MODEL, *TRANSFORMER_FILES]
    found = [name for name in names if (files.directory / name).is_file()]
    return found + [path.parent.name for path in sorted(files.directory.glob(f"*_{POOLING}/{CONFIG}"))]


def _one(name: str, path: Path, key: str, value: object, config: Any | None) -> list[str]:
    row = next((row for row in KEYS if row.file == name and any(fnmatchcase(key, glob) for glob in row.keys)), None)
    doubtful = row is None or row.effect == "refused"
    if doubtful and name == CONFIG and config is not None and key in _keys_of(config):
        return []  # a class that knows the key applies it itself
    if row is None:
        return [f"{path.name}: {key}"]
    if row.effect == "refused" and value not in row.harmless:
        raise CheckpointError(f"{path} has {key}: {row.what}, which is not supported; {row.fix}")
    return []


def _file(path: Path) -> list[str]:
    row = next((row for row in FILES if path.name in row.file.split()), None)
    if row is not None and row.effect == "refused":
        raise CheckpointError(f"{path}: {row.what}, which is not supported; {row.fix}")
    known = {*(row.file for row in KEYS), *TRANSFORMER_FILES, CONFIG}
    return [] if row is not None or path.name in known else [path.name]


def _configurations(files: EncoderFiles) -> Iterator[tuple[str, Path]]:
    """The configuration files that one side is made of, each with the name that its rows have."""
    root = files.library_root
    named = [(name, root / name) for name in (MODULES, ROUTER, MODEL)]
    for module in files.modules:
        if module.kind in TABLES:
            named.append((_MODULE.format("SparseStaticEmbedding"), module.directory / CONFIG))
        elif module.kind in (POOLING, NORMALIZE):
            named.append((_MODULE.format(module.kind), module.directory / CONFIG))
    if files.transformer.source is not None:
        named.append((_TRANSFORMER, files.transformer.source))
    named.append((CONFIG, files.directory / CONFIG))
    named.append(("tokenizer_config.json", files.directory / "tokenizer_config.json"))
    named.append(("adapter_config.json", files.directory / "adapter_config.json"))
    return ((name, path) for name, path in named if path.is_file())


def _flat(stated: Mapping[str, object], *, deep: bool) -> Iterable[tuple[str, object]]:
    for key, value in stated.items():
        if deep and key == "parameters" and isinstance(value, dict):
            yield from ((f"{key}.{inner}", of_it) for inner, of_it in value.items())
        else:
            yield key, value


def _keys_of(config: Any) -> set[str]:
    """The keys that a configuration class reads: its fields, their other names, and those of text generation."""
    from transformers import GenerationConfig

    fields = {field.name for field in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else set()
    generation = GenerationConfig._get_default_generation_params()  # transformers takes these out of config.json
    return fields | set(type(config).attribute_map) | set(generation) | _named_arguments(type(config))


def _named_arguments(kind: type) -> set[str]:
    """The arguments of ``__init__``, for configuration classes of checkpoints' own code, which are no dataclasses."""
    import inspect

    return set(inspect.signature(kind).parameters) - {"kwargs"}


def support_table() -> str:
    """The rows as a Markdown table, for export/README.md."""
    lines = ["| file | keys | effect | what they do |", "| --- | --- | --- | --- |"]
    for row in KEYS:
        keys = ", ".join([f"`{key}`" for key in row.keys] + [row.besides] * bool(row.besides))
        lines.append(f"| `{row.file}` | {keys} | {row.effect} | {row.what} |")
    for row in FILES:
        names = ", ".join(f"`{name}`" for name in row.file.split())
        lines.append(
            f"| {names} | | {row.effect} | {row.what or ('read' if row.effect == 'applied' else 'not read')} |"
        )
    return "\n".join(lines)
