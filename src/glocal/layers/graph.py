"""Modules that FX does not trace into."""

from typing import Any

from timm.layers import register_notrace_module
from torch import nn
from torch.fx import Proxy, Tracer


def leaf(kind: type[nn.Module]) -> type[nn.Module]:
    """Mark a module whose `forward` decides by shapes: FX makes a single node of it, with any tracer.

    timm's tracer asks a list of modules. Other tracers treat only the modules of torch.nn as leaves.
    """
    kind.__call__ = _call
    return register_notrace_module(kind)


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    proxy = next((value for value in args if isinstance(value, Proxy)), None)
    if proxy is None:
        return nn.Module.__call__(module, *args, **kwargs)
    tracer: Tracer = proxy.tracer

    def node(*args: Any, **kwargs: Any) -> Proxy:
        return tracer.create_proxy("call_module", tracer.path_of_module(module), args, kwargs)

    return tracer.call_module(module, node, args, kwargs)
