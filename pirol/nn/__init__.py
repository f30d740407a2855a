"""Layers that Paddle lacks or has in part: max-pooling with dilation."""

import paddle

from pirol.compiler.capture import marks
from pirol.compiler.capture.sot import known_to_sot
from pirol.nn import arguments, functional, pooling, pooling_op
from pirol.nn.pooling import MaxPool1D, MaxPool2D, MaxPool3D

__all__ = ["MaxPool1D", "MaxPool2D", "MaxPool3D", "functional"]

# Their code is run while a program is captured, and is not a part of it.
paddle.jit.ignore_module([arguments, functional, marks, pooling, pooling_op])
known_to_sot(functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
