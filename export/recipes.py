"""How graphs are quantized to int8, as data.

Measured on the default pair (2 cores with AVX-512 VNNI, one thread; 100 questions, 100 paragraphs of SQuAD). Ranking is
the overlap of the ten best paragraphs with those of PyTorch. ms at 1x8 / 1x16 / 1x32 tokens (query), 1x128 (document).

    query, 4.4 M parameters      cosine mean   ranking   ms                   MB
    onnx fp32                    1             1         1.54 / 1.80 / 3.20   17.7
    onnx vocabulary              .99989        .998      0.82 / 1.19 / 1.77    6.2
    onnx vocabulary-vnni         .99993        .997      0.78 / 1.16 / 1.70    6.2
    onnx dynamic-vnni            .99979        .994      0.84 / 1.12 / 1.81    8.6
    onnx dynamic                 .99944        .988      0.89 / 1.13 / 1.81    8.6
    openvino fp32                1             1         1.33 / 1.57 / 2.58   17.7
    openvino weights             .99992        .995      0.77 / 1.04 / 1.67    4.6
    openvino activations         .99954        .993      0.72 / 0.86 / 1.19    4.7
    openvino activations-vnni    .99982        .994      0.73 / 0.86 / 1.22    4.7

    document, 17.4 M parameters
    onnx fp32                    1             1         45.3                 69.7
    onnx vocabulary              .99924        .989      28.5                 34.8
    onnx vocabulary-vnni         .99959        .991      27.8                 34.8
    onnx dynamic-vnni            .98963        .953      21.0                 29.5
    onnx dynamic                 .87760        .865      21.4                 29.5
    openvino fp32                1             1         37.7                 69.7
    openvino weights             .99928        .986      20.0                 17.7
    openvino activations         .89975        .882      13.2                 17.8
    openvino activations-vnni    .98186        .944      14.9                 17.8

Quantized activations inside the encoder are fastest and cost the most ranking, the more so the larger the encoder, so
no default has them: ``vocabulary`` and ``weights`` keep the encoder's graph in float32 and are right on every CPU. The
others are here to be chosen by name, and by measurement later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from ..models.families import COMMUTING_POOLINGS, Pooling
from ..runtime.artifact import Backend
from ..runtime.errors import InputError

Function = Literal["quantize_vocabulary", "quantize_matmuls", "compress_weights", "quantize_activations"]
_EVERY_POOLING: frozenset[str] = frozenset(get_args(Pooling))


@dataclass(frozen=True)
class Recipe:
    """One way to int8.

    ``function`` is the function of :mod:`quantize_onnx` or :mod:`quantize_openvino` and ``options`` its keyword
    arguments. ``batch_invariant``: whether a text's vector is the same in any batch. ``isa``: the CPUs it is right on,
    "any" or "vnni" (x86 without it would saturate). ``poolings``: those it can be used with. ``calibrated``: whether it
    needs sample text.
    """

    name: str
    backend: Backend
    function: Function
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_invariant: bool = True
    isa: Literal["any", "vnni"] = "any"
    poolings: frozenset[str] = _EVERY_POOLING
    calibrated: bool = False


def _options(**options: object) -> Mapping[str, object]:
    return MappingProxyType(options)


# Of each backend, the first that can be used with a pooling is its default.
RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "vocabulary",
        "onnx",
        "quantize_vocabulary",
        _options(weight_bits=7),
        poolings=COMMUTING_POOLINGS,
    ),
    Recipe(
        "dynamic",
        "onnx",
        "quantize_matmuls",
        _options(per_channel=True, reduce_range=True),
        batch_invariant=False,
    ),
    Recipe(
        "vocabulary-vnni",
        "onnx",
        "quantize_vocabulary",
        _options(weight_bits=8),
        isa="vnni",
        poolings=COMMUTING_POOLINGS,
    ),
    Recipe(
        "dynamic-vnni",
        "onnx",
        "quantize_matmuls",
        _options(per_channel=True, reduce_range=False),
        batch_invariant=False,
        isa="vnni",
    ),
    Recipe("weights", "openvino", "compress_weights", _options(mode="INT8_ASYM"), batch_invariant=False),
    Recipe("activations", "openvino", "quantize_activations", _options(overflow_fix=True), calibrated=True),
    Recipe(
        "activations-vnni",
        "openvino",
        "quantize_activations",
        _options(overflow_fix=False),
        isa="vnni",
        calibrated=True,
    ),
)


def choose_recipe(backend: Backend, pooling: str, asked: str | None = None) -> Recipe:
    """The recipe called ``asked``, or the default of a backend.

    Raises InputError when there is no recipe of that name for the backend and the pooling.
    """
    fitting = [r for r in RECIPES if r.backend == backend and pooling in r.poolings]
    if asked is None:
        return fitting[0]
    recipe = recipe_named(backend, asked)
    if recipe not in fitting:
        raise InputError(
            f"the int8 recipe {asked!r} of {backend} is not for {pooling} pooling; "
            f"there are: {', '.join(r.name for r in fitting)}"
        )
    return recipe


def recipe_named(backend: Backend, name: str) -> Recipe:
    """The recipe of that name. Raises InputError that lists those of the backend."""
    recipes = {r.name: r for r in RECIPES if r.backend == backend}
    if name not in recipes:
        raise InputError(f"no int8 recipe {name!r} for {backend}; there are: {', '.join(recipes)}")
    return recipes[name]
