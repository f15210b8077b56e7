"""A device named far, with memory of its own, on which the CPU computes.

It has what matters of a GPU: tensors on it are not on the host, and the host can only copy them or
read a value, each of which waits for a GPU. `FarDevice` counts these.
"""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

HOST = torch.device("cpu")
aten = torch.ops.aten
MATH = 0
"""torch's attention by plain operations; its fused kernels are those of real devices."""
MASKED = ("index", "index_put", "index_put_", "_index_put_impl_")


class FarTensor(torch.Tensor):
    """A tensor on the device; `held` is its content."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "FarTensor":
        tensor: FarTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device="far:0",
        )  # fmt: skip
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function: Any, *_: Any) -> Any:
        raise AssertionError(f"{function} on the far device outside `with FarDevice()`")

    def tolist(self) -> Any:
        return self.cpu().tolist()  # torch does the same, but not for subclasses


class FarDevice(TorchDispatchMode):
    """Lets the CPU compute on the device, within the block.

    One process has one, made before torch computes any gradient, and does nothing else.
    """

    def __init__(self) -> None:
        super().__init__()
        _setup_privateuseone_for_python_backend("far")
        torch.__future__.set_swap_module_params_on_conversion(True)  # keeps tied weights tied
        self._counted: Counter[str] = Counter()
        self._pinned: set[int] = set()

    def counted(self) -> dict[str, int]:
        """What was counted since the last call.

        All but "pinned copy", from pinned host memory to the device, is what a host waits for.
        """
        counted, self._counted = self._counted, Counter()
        return dict(counted)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        on_device = any(issubclass(kind, FarTensor) for kind in types)
        target = torch.device(kwargs.get("device") or ("far" if on_device else "cpu"))
        if function is aten.is_pinned.default:
            return False
        if function is aten._pin_memory.default:
            pinned = args[0].clone()
            self._pinned.add(pinned.data_ptr())
            return pinned
        if function is aten._fused_sdp_choice.default:
            return MATH
        self._count(function, args, kwargs, target)
        if "device" in kwargs:
            kwargs["device"] = HOST
        held = tree_map(_held, (args, kwargs))
        result = function(*held[0], **held[1])
        if target == HOST:
            return result
        result = tree_map(_far, result)
        return return_and_correct_aliasing(function, args, kwargs, result) if on_device else result

    def _count(self, function: Any, args: Any, kwargs: Any, target: torch.device) -> None:
        name = function._schema.name.removeprefix("aten::")
        if name in ("_to_copy", "copy_"):
            source, target = (args[1], args[0].device) if name == "copy_" else (args[0], target)
            if source.device.type == "cpu" != target.type:
                if kwargs.get("non_blocking") and source.data_ptr() in self._pinned:
                    self._counted["pinned copy"] += 1
                else:
                    self._counted["copy to the device"] += 1
            elif source.device.type != "cpu" == target.type:
                self._counted["copy to the host"] += 1
        elif target == HOST:
            pass
        elif name in ("_local_scalar_dense", "nonzero"):
            self._counted[name] += 1
        elif name in MASKED and any(t is not None and t.dtype == torch.bool for t in args[1]):
            self._counted["nonzero"] += 1


def _held(value: Any) -> Any:
    return value.held if isinstance(value, FarTensor) else value


def _far(value: Any) -> Any:
    return FarTensor(value) if isinstance(value, torch.Tensor) else value
