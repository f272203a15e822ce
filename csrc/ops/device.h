// The devices that an op can run on. The ops are templates over them: all their checks are the
// same, and are made before anything is launched.
#pragma once

#include <cstddef>
#include <string>

#if defined(PROSPR_CUDA)
#include "cuda/stream.h"
#endif
#include "tensorflow/core/framework/op_kernel.h"

namespace prospr::ops {

struct CPU {
  static absl::Status copy(tensorflow::OpKernelContext* context, void* to, const void* from,
                           std::size_t bytes);
};

#if defined(PROSPR_CUDA)
struct GPU {
  static absl::Status copy(tensorflow::OpKernelContext* context, void* to, const void* from,
                           std::size_t bytes);
};

// The stream on which a GPU's ops follow one another.
cuda::Stream stream_of(tensorflow::OpKernelContext* context);

// Internal, if anything went wrong with a launch.
absl::Status launch_status(const std::string& wrong);
#endif

}  // namespace prospr::ops
