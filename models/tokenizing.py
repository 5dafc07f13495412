"""The tokenizer of a checkpoint, as the library that made it uses it and as the artifact carries it.

transformers 5 builds a tokenizer from its class and the vocabulary for many classes (``BertTokenizer``, which is
DistilBERT's too, RoBERTa's, XLM-R's), and then ignores the normalizer, the pre-tokenizer or the post-processor of
``tokenizer.json``. What it builds is what sentence-transformers encodes with; the file is what other libraries read.
Where they give other ids, the user has to say which one the encoder was trained with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ..runtime.errors import CheckpointError

From = Literal["class", "file"]
TOKENIZER_FILE = "tokenizer.json"
_FILES = (TOKENIZER_FILE, "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
# What transformers asks for, and what it is called where it is installed from.
_PACKAGES = re.compile(r"requires the (\w[\w.-]*) library|pip install ([\w.-]+)|No module named '([\w.]+)'")


@dataclass(frozen=True)
class LoadedTokenizer:
    """A fast tokenizer of transformers. ``made_from``: its class, or ``tokenizer.json`` alone; ``file``: that file,
    None where there is none; ``lower_case``: text is lower-cased before all else.
    """

    tokenizer: Any
    made_from: From
    file: Path | None
    lower_case: bool = False


def load_tokenizer(
    directories: Sequence[Path],
    vocab_size: int,
    *,
    trust_remote_code: bool,
    arguments: Mapping[str, Any] | None = None,
    lower_case: bool = False,
    made_from: From | None = None,
) -> LoadedTokenizer:
    """Load the fast tokenizer of an encoder.

    Parameters
    ----------
    directories : sequence of Path
        Directories to look in, the first that has a tokenizer counts: the encoder's own, the checkpoint's root.
    vocab_size : int
        How many token ids the model knows.
    trust_remote_code : bool
        Whether code of the checkpoint may be run.
    arguments : mapping, optional
        Arguments of loading it, as the checkpoint states them.
    lower_case : bool
        Whether text is lower-cased before all else, as sentence-transformers does where it is asked to.
    made_from : {"class", "file"}, optional
        See :class:`LoadedTokenizer`; None is "class".

    Returns
    -------
    LoadedTokenizer
        The tokenizer.

    Raises
    ------
    CheckpointError
        If there is none, or it is damaged, needs a package that is missing, is a slow (pure Python) one, or is larger
        than the model's vocabulary.
    """
    from transformers import AutoTokenizer

    directory = next((d for d in directories if any((d / name).is_file() for name in _FILES)), None)
    if directory is None:
        raise CheckpointError(f"{directories[0]} has no tokenizer ({TOKENIZER_FILE}); copy it there from its source")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=trust_remote_code, **(arguments or {})
        )
    except Exception as error:  # the tokenizers library raises plain Exception
        raise _does_not_load(directory, error) from error
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            f"the tokenizer of {directory} is {type(tokenizer).__name__}, which runs in Python alone and has no "
            f"{TOKENIZER_FILE}; convert it with transformers first"
        )
    file = directory / TOKENIZER_FILE if (directory / TOKENIZER_FILE).is_file() else None
    if made_from == "file":
        if file is None:
            raise CheckpointError(f"{directory} has no {TOKENIZER_FILE}; leave out --tokenizer file")
        tokenizer._tokenizer = _by_file(file, tokenizer)
    stated = tokenizer.model_max_length  # whatever tokenizer_config.json says; a large float where it says nothing
    if isinstance(stated, bool) or not isinstance(stated, int | float) or stated < 0:
        raise CheckpointError(
            f"{directory / 'tokenizer_config.json'} has model_max_length {stated!r}, which is no number of tokens; "
            "correct it"
        )
    if lower_case:
        _lower_case(tokenizer.backend_tokenizer)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= largest < vocab_size:
        raise CheckpointError(
            f"the tokenizer of {directory} has term id {largest}, the model a vocabulary of {vocab_size}; "
            "they do not belong together (if tokens were added, resize the model's embeddings and train it with them)"
        )
    return LoadedTokenizer(tokenizer, made_from or "class", file, lower_case)


def _by_file(path: Path, tokenizer: Any) -> Any:
    """``tokenizer.json`` as the tokenizers library reads it, without truncation and padding, with what every release of
    transformers adds to it from ``tokenizer_config.json``: the tokens it names. Raises CheckpointError.
    """
    from tokenizers import Tokenizer

    try:
        by_file = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise _does_not_load(path.parent, error) from error
    by_file.no_truncation()
    by_file.no_padding()
    there = {str(token) for token in by_file.get_added_tokens_decoder().values()}
    for _, token in sorted(tokenizer.added_tokens_decoder.items()):
        if str(token) not in there:
            (by_file.add_special_tokens if token.special else by_file.add_tokens)([token])
    by_file.encode_special_tokens = bool(tokenizer.split_special_tokens)
    return by_file


def disagreement(loaded: LoadedTokenizer, texts: Sequence[str]) -> str | None:
    """Find a text that ``tokenizer.json`` and the tokenizer of the class read differently.

    Parameters
    ----------
    loaded : LoadedTokenizer
        The tokenizer.
    texts : sequence of str
        The texts to try.

    Returns
    -------
    str or None
        The first such text, None if there is none.
    """
    if loaded.file is None or loaded.made_from == "file":
        return None
    by_file = _by_file(loaded.file, loaded.tokenizer)
    if loaded.lower_case:
        _lower_case(by_file)
    by_class = read_backend(loaded.tokenizer)
    for text in texts:
        if by_file.encode(text).ids != by_class.encode(text).ids:
            return text
    return None


def read_backend(tokenizer: Any) -> Any:
    """Copy what a tokenizer of transformers computes with.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The tokenizer.

    Returns
    -------
    tokenizers.Tokenizer
        The copy, without truncation and padding.
    """
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = bool(tokenizer.split_special_tokens)  # a setting of the object, not of the file
    return plain


def special_token_ids(tokenizer: Any) -> dict[str, int]:
    """The term ids of the special tokens.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The tokenizer.

    Returns
    -------
    dict of str to int
        By name: ``cls_token``, ``sep_token``, ``pad_token`` and so on.
    """
    found = {}
    for name, token in tokenizer.special_tokens_map.items():
        if isinstance(token, str) and (term := tokenizer.convert_tokens_to_ids(token)) is not None:
            found[name] = int(term)
    return dict(sorted(found.items()))


def write_tokenizer(tokenizer: Any, path: Path) -> None:
    """Write ``tokenizer.json`` without truncation or padding settings; the runtime sets its own.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The tokenizer.
    path : Path
        The file to write.
    """
    path.write_text(read_backend(tokenizer).to_str(pretty=False), encoding="utf-8")


def _lower_case(backend: Any) -> None:
    """Lower-case text before a tokenizer's own normalization, where ``Lowercase`` is not a step of that already."""
    from tokenizers import normalizers

    steps: Any = backend.normalizer
    if isinstance(steps, normalizers.Sequence):
        found: list[Any] = list(cast("Any", steps))
        if any(isinstance(step, normalizers.Lowercase) for step in found):
            return
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *found])
    elif not isinstance(steps, normalizers.Lowercase):
        rest = [] if steps is None else [steps]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


def _does_not_load(directory: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())
    package = next((name for found in _PACKAGES.finditer(reason) for name in found.groups() if name), None)
    if isinstance(error, ImportError) and package:
        package = {"sudachi": "sudachipy sudachidict-core"}.get(package.lower(), package)
        return CheckpointError(
            f"the tokenizer of {directory} needs the package {package}: pip install {package}, and try again"
        )
    return CheckpointError(f"the tokenizer of {directory} does not load ({reason[:200]}); get it again")
