"""Networks on a GPU that is not there: their tensors have a shape and a device, but no values."""

from collections.abc import Callable

from torch import Tensor, nn


def replace_tensors(module: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
    """Put `function` of every parameter and buffer in its place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(function(parameter), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
