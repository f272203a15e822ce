// The kernels' ParallelFor on TensorFlow's own intra-op thread pool.
#pragma once

#include "cpu/parallel_for.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace prospr::ops {

cpu::ParallelFor parallel_for(tensorflow::OpKernelContext* context);

}  // namespace prospr::ops
