"""Where the logits of a masked-language model come from, found by running it: by shape, not by a module's name.

Most heads end in one linear layer over the vocabulary. Some add a bias after it, some multiply by the word embeddings
without a layer of their own (DeBERTa), some join two matrices (MobileBERT), and ``get_output_embeddings()`` of some is
another layer altogether. So the model is run on a few tokens, and a decoder counts as found only if
``linear(hidden, weight, bias)`` is the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.errors import CheckpointError
from .quiet import quiet_transformers

# Texts and tokens of the run that a decoder is found with.
_SHAPE = (2, 7)
# Logits of the longest text that a model is tried on: a quarter of a gigabyte.
_LARGEST_RUN = 1 << 26
# Allowed difference from the logits, as a share of the largest: the rounding of float32 sums in another order.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Decoder:
    """The linear map from an activation to the logits: ``logits = hidden @ weight.T + bias``.

    ``module``: the name of the module that the activation is taken at, which is its input if ``before`` and else its
    output. ``weight``: float32 ``[vocab, hidden]``, ``bias``: ``[vocab]`` or None; both are the model's own tensors.
    """

    module: str
    before: bool
    weight: Tensor
    bias: Tensor | None


class HiddenTap:
    """Runs a model and catches what goes into its decoder, ``[batch, length, hidden]``."""

    def __init__(self, model: Any, decoder: Decoder) -> None:
        self._model = model
        self._decoder = decoder

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``input_ids`` and ``attention_mask``: int64 ``[batch, length]``."""
        caught: list[Tensor] = []
        module = self._model.get_submodule(self._decoder.module)

        def entering(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            caught.append(args[0])

        def leaving(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            caught.append(output)

        hook = (
            module.register_forward_pre_hook(entering)
            if self._decoder.before
            else module.register_forward_hook(leaving)
        )
        try:
            self._model(input_ids=input_ids, attention_mask=attention_mask)
        finally:
            hook.remove()
        return caught[-1]


def embedding_rows(model: Any) -> int:
    """Count the token ids that a model knows.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.

    Returns
    -------
    int
        The rows of its word embeddings.
    """
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        weight = None
    # What Perceiver calls its input embeddings are its latent vectors.
    return int(model.config.get_text_config().vocab_size if weight is None else weight.shape[0])


def max_positions(model: Any) -> int | None:
    """The longest input of a model.

    Position tables with a padding row (RoBERTa) are used from the row after it.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.

    Returns
    -------
    int or None
        Tokens; None if nothing bounds them.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.weight.shape[0] - module.padding_idx - 1)
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0) or None


def check_lengths(model: Any, longest: int) -> None:
    """Run a model on its shortest text (two special tokens) and on a long one, if memory allows.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.
    longest : int
        Tokens of the long text.

    Raises
    ------
    CheckpointError
        If it does not run, or computes differently from some length on and remembers that.
    """
    run_model(model, probe_tokens(model)[:1, :2], torch.ones(1, 2, dtype=torch.long))
    config = model.config.get_text_config()
    if getattr(config, "attention_type", None) == "block_sparse":
        dense = (5 + 2 * config.num_random_blocks) * config.block_size
        if longest > dense:
            raise CheckpointError(
                f"config.json has attention_type 'block_sparse', with which texts of more than {dense} tokens have "
                f"other weights before a shorter text than after it; pass --max-length {dense}, or set 'original_full'"
            )
    elif longest * logits_width(model) <= _LARGEST_RUN:
        ids = probe_tokens(model).reshape(1, -1).repeat(1, -(-longest // (_SHAPE[0] * _SHAPE[1])))[:, :longest]
        run_model(model, ids, torch.ones_like(ids))


def logits_width(model: Any) -> int:
    """The size of a model's vocabulary.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.

    Returns
    -------
    int
        The width of its logits.
    """
    return int(_logits(model, probe_tokens(model)).shape[-1])


@torch.inference_mode()
def find_decoder(model: Any) -> Decoder | None:
    """Find the decoder of a model by running it.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model, float32, in evaluation mode.

    Returns
    -------
    Decoder or None
        None if the logits are no plain linear map of one activation.
    """
    ids = probe_tokens(model)
    seen: list[tuple[str, bool, Tensor]] = []
    hooks = []
    for name, module in model.named_modules():
        if name:
            hooks.append(module.register_forward_hook(_watch(name, module, seen)))
    try:
        logits = _logits(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    shape = logits.shape
    matrices = _unique(p for p in model.parameters() if p.dim() == 2 and p.shape[0] == shape[-1])
    biases = [t for t in (*model.parameters(), *model.buffers()) if t.numel() == shape[-1] and shape[-1] in t.shape]
    # A linear layer's input comes before what another module gave out, and the last ones are the likely ones.
    seen.reverse()
    for name, before, hidden in sorted(seen, key=lambda entry: not entry[1]):
        if hidden.shape[:2] != shape[:2] or hidden.dim() != 3:
            continue
        for weight in matrices:
            if weight.shape[1] != hidden.shape[2]:
                continue
            found, bias = _bias(logits, hidden, weight, biases)
            if found:
                return Decoder(name, before, weight, bias)
    return None


def _watch(name: str, module: nn.Module, seen: list[tuple[str, bool, Tensor]]) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear) and args and isinstance(args[0], Tensor):
            seen.append((name, True, args[0].clone()))
        if isinstance(output, Tensor):
            seen.append((name, False, output.clone()))

    return hook


def _bias(logits: Tensor, hidden: Tensor, weight: Tensor, biases: list[Tensor]) -> tuple[bool, Tensor | None]:
    """Whether ``logits`` are ``hidden`` times ``weight`` but for one of ``biases``, or for none; and which."""
    allowed = _TOLERANCE * float(logits.abs().max())
    rest = logits - nn.functional.linear(hidden, weight)
    if bool(rest.abs().max() <= allowed):
        return True, None
    if bool((rest - rest[:1, :1]).abs().max() > 2 * allowed):
        return False, None
    for bias in biases:
        if bool((rest - bias.reshape(-1)).abs().max() <= allowed):
            return True, bias
    return False, None


def _unique(tensors: Iterator[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def probe_tokens(model: Any) -> Tensor:
    """Make token ids to run a model on.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.

    Returns
    -------
    int64 tensor ``[2, 7]``
        Ids that all differ where the vocabulary allows it, without the padding token.
    """
    known = embedding_rows(model)
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    ids = [i for i in range(known) if i != padding]
    count = _SHAPE[0] * _SHAPE[1]
    # From the middle of the vocabulary: special tokens lie at its ends.
    start = max(0, (len(ids) - count) // 2)
    chosen = [ids[(start + i) % len(ids)] for i in range(count)]
    return torch.tensor(chosen).reshape(_SHAPE)


def _logits(model: Any, ids: Tensor) -> Tensor:
    return run_model(model, ids, torch.ones_like(ids))


@torch.inference_mode()
def run_model(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Run a model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.
    input_ids, attention_mask : int64 tensor ``[batch, length]``
        Token ids, and 1 where they count.

    Returns
    -------
    float32 tensor ``[batch, length, vocab]``
        The logits.

    Raises
    ------
    CheckpointError
        If the model cannot be run.
    """
    try:
        with quiet_transformers():
            logits: Tensor = model(input_ids=input_ids, attention_mask=attention_mask).logits
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{type(model).__name__} with this config.json does not run on a text of {input_ids.shape[1]} tokens "
            f"({type(error).__name__}: {reason}), so it cannot be an encoder of texts"
        ) from error
    if logits.shape[:2] != input_ids.shape:
        raise CheckpointError(
            f"{type(model).__name__} gives logits of {logits.shape[1]} positions for a text of {input_ids.shape[1]} "
            "tokens, so it cannot be an encoder of texts"
        )
    return logits
