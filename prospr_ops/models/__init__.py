"""Networks of the pruning literature, as uncompiled Keras models."""

from __future__ import annotations

from prospr_ops.models.lenet import lenet5, lenet5_caffe, lenet_300_100
from prospr_ops.models.resnet import resnet20
from prospr_ops.models.vgg import vgg7, vgg16

__all__ = ["lenet5", "lenet5_caffe", "lenet_300_100", "resnet20", "vgg7", "vgg16"]
