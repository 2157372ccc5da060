"""A graph for OpenVINO and a fixed image size, recorded while the model computes an image.

torch.export follows every operation with symbols for sizes, and traces the whole graph a second time for the operations
that OpenVINO knows. For a fixed size, a record of the operations on the image is enough; values that depend only on
weights are constants.
"""

import operator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_any, tree_map, tree_map_only

from glocal.deploy import runtimes
from glocal.deploy.reparameterize import fuse
from glocal.ops.dispatch import as_exported


class NotRecordedError(Exception):
    """The model does something that a record cannot hold."""


class Traced(Tensor):
    """A value that depends on the images: the tensor, and its node in the graph."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor, node: fx.Node, record: "Record"):
        return Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=values.device
        )

    def __init__(self, values: Tensor, node: fx.Node, record: "Record"):
        self.values, self.node, self.record = values, node, record

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        found: list[Record] = []
        tree_map_only(Traced, lambda tensor: found.append(tensor.record), (args, kwargs))
        return found[0].add(operation, args, kwargs or {})


class Record:
    """The recorded graph and its constants."""

    def __init__(self):
        self.graph = fx.Graph()
        self.constants = nn.Module()
        self.known: dict[int, tuple[Tensor, fx.Node]] = {}

    def images(self, values: Tensor) -> Traced:
        node = self.graph.placeholder("images")
        node.meta["tensor_meta"] = SimpleNamespace(shape=values.shape, dtype=values.dtype)
        return Traced(values, node, self)

    def add(self, operation, args: tuple, kwargs: dict):
        """Compute and record an operation; NotRecordedError if it gives no tensor or writes into a tensor."""
        results = operation(
            *tree_map_only(Traced, lambda tensor: tensor.values, args),
            **tree_map_only(Traced, lambda tensor: tensor.values, kwargs),
        )
        if operation is torch.ops.aten.detach.default:
            return Traced(results, args[0].node, self)
        if operation._schema.is_mutable or not tree_any(lambda result: isinstance(result, Tensor), results):
            raise NotRecordedError(str(operation))
        node = self.graph.call_function(operation, tree_map(self.argument, args), tree_map(self.argument, kwargs))
        if isinstance(results, Tensor):
            return Traced(results, node, self)
        return type(results)(
            Traced(result, self.graph.call_function(operator.getitem, (node, place)), self)
            if isinstance(result, Tensor)
            else result
            for place, result in enumerate(results)
        )

    def argument(self, value):
        """The node of a tensor; other values unchanged."""
        if isinstance(value, Traced):
            return value.node
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self.known:
            name = f"constant_{len(self.known)}"
            self.constants.register_buffer(name, value.detach().contiguous())
            self.known[id(value)] = value, self.graph.get_attr(name)  # keeps the tensor, so that no other gets its id
        return self.known[id(value)][1]


def record(model: nn.Module, images: Tensor) -> fx.GraphModule:
    """The operations of a model on the CPU for images (B, C, H, W) of this shape.

    Raises NotRecordedError if the model decides by values or writes into tensors.
    """
    made = Record()
    with torch.no_grad(), as_exported():
        results = torch.func.functionalize(model)(made.images(images))
    results = runtimes.as_list(results)
    if not all(isinstance(result, Traced) for result in results):
        raise NotRecordedError("a result that does not depend on the images")
    made.graph.output(tuple(result.node for result in results))
    made.graph.eliminate_dead_code()
    return fx.GraphModule(made.constants, made.graph)


def write_openvino(model: nn.Module, path: Path, input_size: tuple[int, int, int]) -> None:
    """Write a model for single images of a fixed size, without comparing the file with the model.

    Raises the errors of torch and OpenVINO if the model cannot be recorded or converted.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with torch.inference_mode(False):  # in inference mode, torch calls other operations
        # Contiguous maps: with other layouts, the graph has operations that only change the layout.
        fused = fuse(model).to("cpu", memory_format=torch.contiguous_format).requires_grad_(False)
        decoder = TorchFXPythonDecoder(record(fused, torch.zeros(1, *input_size)))
    with runtimes.quiet():
        manager = FrontEndManager()  # it and the decoder must live as long as the conversion
        frontend = manager.load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(decoder))
    openvino.save_model(graph, path, compress_to_fp16=False)
