"""Max-pooling layers."""

from __future__ import annotations

from typing import Any

import paddle

from pirol.nn import functional
from pirol.nn.arguments import flags


class _MaxPool(paddle.nn.Layer):  # type: ignore[misc]
    pool: Any

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        return_mask: Any = False,
        ceil_mode: Any = False,
        dilation: Any = 1,
        data_format: str | None = None,
        name: str | None = None,
        **other: Any,
    ) -> None:
        super().__init__()
        told, op = (return_mask, ceil_mode, dilation), type(self).__name__
        asked = flags(op, told, other, second="return_mask")
        self.sizes = kernel_size, stride, padding
        self.asked = {
            "return_mask": asked.mask is not None,
            "mask_dtype": asked.mask or "int32",
            "ceil_mode": asked.ceil_mode,
            "ceil_correction": asked.ceil_correction,
            "dilation": asked.dilation,
            **({} if data_format is None else {"data_format": data_format}),
            **other,
        }

    def forward(self, x: Any = None, **other: Any) -> Any:
        """As the function."""
        kernel_size, stride, padding = self.sizes
        run = type(self).pool
        return run(x, kernel_size, stride, padding, **self.asked, **other)

    def extra_repr(self) -> str:
        """The arguments."""
        names = "kernel_size", "stride", "padding"
        told = {**dict(zip(names, self.sizes)), **self.asked}
        return ", ".join(f"{k}={v}" for k, v in told.items())


class MaxPool1D(_MaxPool):
    """pirol.nn.functional.max_pool1d as a layer, of the same arguments; in PyTorch's
    positional order return_indices stands before ceil_mode."""

    pool = staticmethod(functional.max_pool1d)


class MaxPool2D(_MaxPool):
    """pirol.nn.functional.max_pool2d as a layer, of the same arguments; in PyTorch's
    positional order return_indices stands before ceil_mode."""

    pool = staticmethod(functional.max_pool2d)


class MaxPool3D(_MaxPool):
    """pirol.nn.functional.max_pool3d as a layer, of the same arguments; in PyTorch's
    positional order return_indices stands before ceil_mode."""

    pool = staticmethod(functional.max_pool3d)
