"""ONNX Runtime's side of whole models: nanoGPT's forward pass as a graph that it optimises."""

from typing import Any

import numpy as np
from data import Arrays, Case
from onnx import TensorProto, helper, numpy_helper


def graph(case: Case, inputs: Arrays) -> Any:
    """Return the graph from ids (B, T) to logits (B, T, V); weights lie as products read them."""
    return _Graph(case, inputs).made()


class _Graph:
    def __init__(self, case: Case, inputs: Arrays) -> None:
        self.case, self.nodes = case, []
        self.constants: list[Any] = []
        weights = {name: a for name, a in inputs.items() if name not in ("ids", "targets")}
        for name, a in weights.items():
            is_map = a.ndim == 2 and name not in ("tokens", "positions")
            self.constant(name, a.T if is_map else a)
        self.constant("head", weights["tokens"].T)
        self.constant("places", np.arange(case["T"]))

    def made(self) -> Any:
        """Return the graph."""
        case = self.case
        rows = self.node("Gather", "tokens", "ids")
        x = self.node("Add", rows, self.node("Gather", "positions", "places"))
        for i in range(case["layers"]):
            x = self.layer(i, x)
        self.node("MatMul", self.norm(x, "norm"), "head", out="y")
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, (case["B"], case["T"]))
        shape = case["B"], case["T"], case["V"]
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
        return helper.make_graph(self.nodes, "gpt", [ids], [y], self.constants)

    def layer(self, i: int, x: str) -> str:
        """Add a layer."""
        qkv = self.node("MatMul", self.norm(x, f"{i}.norm1"), f"{i}.qkv")
        parts = [f"{i}.{name}" for name in "qkv"]
        self.nodes.append(helper.make_node("Split", [qkv], parts, axis=-1, num_outputs=3))
        heads = {"q_num_heads": self.case["H"], "kv_num_heads": self.case["H"], "is_causal": 1}
        found = self.node("Attention", *parts, **heads)
        x = self.node("Add", x, self.node("MatMul", found, f"{i}.out"))
        hidden = self.node("Gelu", self.node("MatMul", self.norm(x, f"{i}.norm2"), f"{i}.up"))
        return self.node("Add", x, self.node("MatMul", hidden, f"{i}.down"))

    def norm(self, x: str, weight: str) -> str:
        """Add a layer normalisation."""
        return self.node("LayerNormalization", x, weight, epsilon=1e-5)

    def node(self, kind: str, *inputs: str, out: str = "", **options: Any) -> str:
        """Add a node, and return the name of what it makes."""
        name = out or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **options))
        return name

    def constant(self, name: str, a: Any) -> None:
        """Add an array."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(a), name))
