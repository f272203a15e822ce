"""Networks of the pruning literature, as uncompiled Keras models."""

from __future__ import annotations

from prospr_ops.models.lenet import lenet5, lenet5_caffe, lenet_300_100

__all__ = ["lenet5", "lenet5_caffe", "lenet_300_100"]
