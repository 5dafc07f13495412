"""How graphs are quantized to int8, as data.

Measured on the document encoder of the default pair (17.4 M parameters; one thread of a Xeon with AVX-512 VNNI, 128
tokens; 30 paragraphs of SQuAD, calibrated on 54 others). `-vnni` forms of a recipe have 8-bit weights, the others 7-bit
ones where activations are quantized too, so that x86 without VNNI does not saturate.

                            cosine mean   ms      MB
    onnx fp32               1             45.3    69.7
    onnx vocabulary         .99913        27.2    34.8
    onnx vocabulary-vnni    .99952        27.0    34.8
    onnx rows-quarter       .99864        23.9    22.1
    onnx rows-quarter-vnni  .99920        23.8    22.1
    onnx rows               .99333        23.6    18.5
    onnx rows-vnni          .99782        23.6    18.5
    onnx rows-smooth-vnni   .99801        23.5    18.6
    onnx blocks-vnni        .99918        30.4    19.1
    onnx static-vnni        .93802        22.4    18.5
    onnx dynamic-vnni       .98855        21.3    29.5
    onnx dynamic-half-vnni  .99899        26.5    41.9
    onnx decoder-vnni       .99910        28.2    45.8
    openvino fp32           1             38.3    69.7
    openvino weights        .99920        20.3    17.7
    openvino activations         .89988   14.2    17.8
    openvino activations-vnni    .98103   14.5    17.8
    openvino activations-quarter-vnni .99772  16.0    21.3
    openvino activations-half-vnni    .99849  20.6    30.1
    openvino activations-decoder-vnni .99841  22.5    34.1

``kernel`` is a backend of its own, with one recipe: the encoder in int8 for the runtime's own kernels
(:mod:`write_kernel`). It is as near as ``rows-vnni`` and right on every CPU. Small query encoders get it beside the
default of ONNX, and it is asked for as a recipe of ONNX (``--recipe onnx=kernel``), whose graph it is calibrated with.

``logits`` is ``vocabulary`` for graphs that compute whole logits (sum pooling; decoders that are not one matrix).

No recipe is right for every checkpoint: what costs nothing on a small encoder ruins a large one. The defaults,
``vocabulary`` (or ``logits``) and ``weights``, keep the encoder's activations in float32 and are right on every CPU;
``--recipe auto`` tries all on the checkpoint at hand (:mod:`auto.search`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from ..models.families import COMMUTING_POOLINGS, Pooling
from ..runtime.artifact import Backend
from ..runtime.errors import InputError

Function = Literal[
    "quantize_vocabulary",
    "quantize_logits",
    "quantize_rows",
    "quantize_blocks",
    "quantize_static",
    "quantize_dynamic",
    "compress_weights",
    "quantize_activations",
    "write_kernel",
]
AUTO = "auto"
# The recipe of the kernel backend, which small query encoders get beside the default of ONNX.
KERNEL = "kernel"
# Backends that are made together with another's graph, and asked for by that one's name.
_ASKED_WITH: Mapping[Backend, Backend] = {"kernel": "onnx"}
_EVERY_POOLING: frozenset[str] = frozenset(get_args(Pooling))


@dataclass(frozen=True)
class Recipe:
    """One way to int8.

    ``function`` is one of the functions of the modules ``quantize_*`` and ``write_kernel``, and ``options`` its keyword
    arguments; :data:`backends.WRITERS` has the functions.
    ``batch_invariant``: whether a text's vector is the same in any batch. ``isa``: the CPUs it is right on, "any" or
    "vnni" (x86 without it would saturate). ``poolings``: those it can be used with. ``pools_first``: only for graphs
    that take the maximum of what a decoder of one matrix gives.
    """

    name: str
    backend: Backend
    function: Function
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_invariant: bool = True
    isa: Literal["any", "vnni"] = "any"
    poolings: frozenset[str] = _EVERY_POOLING
    pools_first: bool = False

    @property
    def asked_with(self) -> Backend:
        """The backend that ``--recipe BACKEND=NAME`` asks for this recipe with."""
        return _ASKED_WITH.get(self.backend, self.backend)


def _onnx(name: str, function: Function, *, pools_first: bool = True, **options: object) -> Recipe:
    return Recipe(
        name,
        "onnx",
        function,
        MappingProxyType(options),
        batch_invariant=function != "quantize_dynamic",
        isa="vnni" if name.endswith("-vnni") else "any",
        poolings=COMMUTING_POOLINGS if pools_first else _EVERY_POOLING,
        pools_first=pools_first,
    )


def _openvino(name: str, function: Function, **options: object) -> Recipe:
    return Recipe(
        name,
        "openvino",
        function,
        MappingProxyType(options),
        # Where float32 products are left, OpenVINO takes other kernels for other batches: 2e-3 to 5e-3 were measured.
        batch_invariant=function == "quantize_activations" and "leave_out" not in options,
        isa="vnni" if name.endswith("-vnni") else "any",
    )


# Of each backend, the first that can be used with a pooling and a graph is its default.
_ONNX: tuple[Recipe, ...] = (
    _onnx("vocabulary", "quantize_vocabulary", weight_bits=7),
    _onnx("logits", "quantize_logits", pools_first=False, weight_bits=7),
    _onnx("logits-vnni", "quantize_logits", pools_first=False, weight_bits=8),
    _onnx("dynamic", "quantize_dynamic", pools_first=False, reduce_range=True),
    _onnx("vocabulary-vnni", "quantize_vocabulary", weight_bits=8),
    _onnx("rows", "quantize_rows", weight_bits=7),
    _onnx("rows-vnni", "quantize_rows", weight_bits=8),
    _onnx("rows-quarter", "quantize_rows", weight_bits=7, leave_out=0.25),
    _onnx("rows-quarter-vnni", "quantize_rows", weight_bits=8, leave_out=0.25),
    _onnx("rows-half", "quantize_rows", weight_bits=7, leave_out=0.5),
    _onnx("rows-smooth-vnni", "quantize_rows", weight_bits=8, smooth=0.5),
    _onnx("blocks-vnni", "quantize_blocks", block=32),
    _onnx("static", "quantize_static", weight_bits=7, smooth=0.5),
    _onnx("static-vnni", "quantize_static", weight_bits=8, smooth=0.5),
    _onnx("static-quarter-vnni", "quantize_static", weight_bits=8, smooth=0.5, leave_out=0.25),
    _onnx("dynamic-vnni", "quantize_dynamic", pools_first=False, reduce_range=False),
    _onnx("dynamic-half-vnni", "quantize_dynamic", pools_first=False, reduce_range=False, leave_out=0.5),
    _onnx("decoder", "quantize_dynamic", pools_first=False, reduce_range=True, operators=("MatMul",), leave_out=1.0),
    _onnx(
        "decoder-vnni", "quantize_dynamic", pools_first=False, reduce_range=False, operators=("MatMul",), leave_out=1.0
    ),
    _onnx("embeddings", "quantize_dynamic", pools_first=False, reduce_range=True, operators=("Gather",)),
)
_KERNEL: tuple[Recipe, ...] = (Recipe(KERNEL, "kernel", "write_kernel", poolings=COMMUTING_POOLINGS, pools_first=True),)
_OPENVINO: tuple[Recipe, ...] = (
    _openvino("weights", "compress_weights", mode="INT8_ASYM"),
    _openvino("activations", "quantize_activations", overflow_fix=True),
    _openvino("activations-vnni", "quantize_activations", overflow_fix=False),
    _openvino("activations-quarter", "quantize_activations", overflow_fix=True, leave_out=0.25),
    _openvino("activations-quarter-vnni", "quantize_activations", overflow_fix=False, leave_out=0.25),
    _openvino("activations-half", "quantize_activations", overflow_fix=True, leave_out=0.5),
    _openvino("activations-half-vnni", "quantize_activations", overflow_fix=False, leave_out=0.5),
    _openvino("activations-decoder", "quantize_activations", overflow_fix=True, leave_out=1.0),
)


RECIPES: tuple[Recipe, ...] = (*_ONNX, *_KERNEL, *_OPENVINO)


def recipes_for(backend: Backend, pooling: str, *, pools_first: bool = True) -> list[Recipe]:
    """The recipes that can be asked for with a backend and used with an encoder.

    Parameters
    ----------
    backend : {"onnx", "openvino"}
        The backend. "onnx" includes the recipe of the kernel backend.
    pooling : str
        The encoder's pooling.
    pools_first : bool
        Whether its graph takes the maximum of what a decoder of one matrix gives.

    Returns
    -------
    list of Recipe
        The first is the default.
    """
    return [
        r for r in RECIPES if r.asked_with == backend and pooling in r.poolings and (pools_first or not r.pools_first)
    ]


def choose_recipe(backend: Backend, pooling: str, asked: str | None = None, *, pools_first: bool = True) -> Recipe:
    """Find a recipe of a backend by name, or its default.

    Parameters
    ----------
    backend : {"onnx", "openvino"}
        The backend it is asked for with.
    pooling : str
        The encoder's pooling.
    asked : str, optional
        The name of the recipe. Without it the default is returned.
    pools_first : bool
        Whether the graph takes the maximum of what a decoder of one matrix gives.

    Returns
    -------
    Recipe
        The recipe.

    Raises
    ------
    InputError
        If the backend has no recipe of that name for this pooling and this graph.
    """
    fitting = recipes_for(backend, pooling, pools_first=pools_first)
    if asked is None:
        return fitting[0]
    recipe = recipe_named(backend, asked)
    if recipe not in fitting:
        what = f"{pooling} pooling" if pooling not in recipe.poolings else "a decoder that is not one matrix"
        raise InputError(
            f"the int8 recipe {asked!r} of {backend} is not for {what}; there are: {', '.join(r.name for r in fitting)}"
        )
    return recipe


def recipe_named(backend: Backend, name: str) -> Recipe:
    """Find a recipe by name.

    Parameters
    ----------
    backend : {"onnx", "openvino"}
        The backend it is asked for with.
    name : str
        The name.

    Returns
    -------
    Recipe
        The recipe.

    Raises
    ------
    InputError
        If there is none; the message lists those of the backend.
    """
    recipes = {r.name: r for r in RECIPES if r.asked_with == backend}
    if name not in recipes:
        raise InputError(f"no int8 recipe {name!r} for {backend}; there are: {AUTO}, {', '.join(recipes)}")
    return recipes[name]
