"""SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): move the range of large activation channels into the weights.

Before each product the activations are divided, and the weight matrix multiplied, by ``s[channel] = largest
activation ^ alpha / largest weight ^ (1 - alpha)``. The paper folds the division into a LayerNorm; BERT's LayerNorms
also feed the residual, so it is a multiplication of its own here, shared by the products of the same activations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .onnx_graph import Statistics, encoder_products

_SMALLEST = 1e-5


def smooth_products(
    model: onnx.ModelProto, names: Collection[str], statistics: Mapping[str, Statistics], alpha: float
) -> dict[str, Statistics]:
    """Apply SmoothQuant to products of a graph, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph; it is changed.
    names : collection of str
        Names of the products.
    statistics : mapping of str to Statistics
        What goes into each product.
    alpha : float
        How much of the range moves into the weights: 0 none, 1 all.

    Returns
    -------
    dict of str to Statistics
        What goes into the products afterwards.

    References
    ----------
    Xiao et al., "SmoothQuant", arXiv:2211.10438.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    groups: dict[str, list[onnx.NodeProto]] = {}
    for node in encoder_products(graph):
        if node.name in names:
            groups.setdefault(node.input[0], []).append(node)
    found = dict(statistics)
    divisions: dict[str, onnx.NodeProto] = {}  # by the name of the product they come before
    for entering, products in groups.items():
        matrices = [numpy_helper.to_array(tensors[node.input[1]]) for node in products]
        weight = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
        activation = statistics[products[0].name].largest
        factor = np.maximum(activation, _SMALLEST) ** alpha / np.maximum(weight, _SMALLEST) ** (1 - alpha)
        factor = (factor / np.exp(np.log(factor).mean())).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(1 / factor, f"smooth_{entering}_factor"))
        divisions[products[0].name] = helper.make_node(
            "Mul", [entering, f"smooth_{entering}_factor"], [f"smooth_{entering}"], name=f"smooth_{entering}"
        )
        for node, matrix in zip(products, matrices, strict=True):
            name = f"smooth_{node.name}_matrix"
            graph.initializer.append(numpy_helper.from_array(matrix * factor[:, None], name))
            found[node.name] = replace(
                statistics[node.name],
                mean=statistics[node.name].mean / factor,
                largest=statistics[node.name].largest / factor,
            )
            node.input[0], node.input[1] = f"smooth_{entering}", name
    nodes = [part for node in graph.node for part in (divisions.get(node.name), node) if part is not None]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
    del graph.value_info[:]
    return found
