"""ONNX Runtime's side of the benchmark: models of one node, which run forward only."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_gpt
import onnxruntime
from data import Arrays, Case, visible
from onnx import TensorProto, helper

VERSION = onnxruntime.__version__
NODES = {
    "attention": "Attention",
    "softmax": "Softmax",
    "gelu": "Gelu",
    "layer_norm": "LayerNormalization",
    "cross_entropy": "SoftmaxCrossEntropyLoss",
}
OPSET = 23  # the first with Attention


def build(case: Case, inputs: Arrays, threads: int) -> Callable[[], Any] | None:
    """Return a call of the operation, or None where this library has none."""
    if case["op"] == "logits":
        ids = {"ids": inputs["ids"]}
        return _session(onnx_gpt.graph(case, inputs), threads, ids)
    if case["backward"] or case["op"] not in NODES:
        return None
    feeds = {name: a for name, a in inputs.items() if name != "dy"}
    options: dict[str, Any] = {}
    if case["op"] == "attention":
        options["is_causal"] = int(case["mask"] == "causal")
        mask = visible(case)
        if mask is not None:
            shape = mask.shape[0], 1, case["T"], case["S"]  # broadcasts along the heads only
            feeds["mask"] = np.ascontiguousarray(np.broadcast_to(mask, shape))
    return _session(_graph(NODES[case["op"]], feeds, options), threads, feeds)


def _session(graph: Any, threads: int, feeds: Arrays) -> Callable[[], Any]:
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.checker.check_model(model)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4  # what fails is said by the exception
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, feeds)


def _graph(node: str, feeds: Arrays, options: dict[str, Any]) -> Any:
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in feeds.items()
    ]
    shape = () if node == NODES["cross_entropy"] else next(iter(feeds.values())).shape
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    return helper.make_graph(
        [helper.make_node(node, list(feeds), ["y"], **options)], "case", values, [result]
    )
