// How an op runs a kernel on its device. Ops are templates over the device: their checks are the
// same, and come before any launch.
#pragma once

#include <cstddef>
#include <new>
#include <string>
#include <type_traits>

#include "cpu/block_normalisation.h"
#include "cpu/curvature.h"
#include "cpu/gamma.h"
#include "cpu/normalisation.h"
#include "cpu/pooling.h"
#include "cpu/select.h"
#include "cpu/sparse_conv.h"
#include "cpu/sparse_conv_small.h"
#if defined(PROSPR_CUDA)
#include "cuda/curvature.h"
#include "cuda/gamma.h"
#include "cuda/normalisation.h"
#include "cuda/pooling.h"
#include "cuda/select.h"
#endif
#include "ops/arguments.h"

namespace prospr::ops {

struct CPU {
  static constexpr const char* kName = "CPU";
  static absl::Status copy(OpKernelContext* context, void* to, const void* from, std::size_t bytes);
};

#if defined(PROSPR_CUDA)
struct GPU {
  static constexpr const char* kName = "GPU";
  static absl::Status copy(OpKernelContext* context, void* to, const void* from, std::size_t bytes);
};

// The stream on which a GPU's ops follow one another.
cuda::Stream stream_of(OpKernelContext* context);

// Internal, unless `failure` is empty.
absl::Status launch_status(const std::string& failure);
#endif

// The kernels' ParallelFor on TensorFlow's own intra-op thread pool.
cpu::ParallelFor parallel_for(OpKernelContext* context);

// What `run` refuses is InvalidArgument; an allocation that fails in it is an error of the op.
template <typename Run>
absl::Status guarded(const Run& run) {
  try {
    if constexpr (std::is_void_v<decltype(run())>) {
      run();
      return absl::OkStatus();
    } else {
      return status_of(run());
    }
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for the scratch of a kernel");
  }
}

#if defined(PROSPR_CUDA)
template <typename... Arguments>
absl::Status run_on_gpu(void* scratch, cuda::Stream stream, const Arguments&... arguments) {
  return launch_status(cuda::run(arguments..., scratch, stream));
}

// Select waits for the device, so it can refuse the scores that it finds there.
template <typename T>
absl::Status run_on_gpu(void* scratch, cuda::Stream stream, const Selection<T>& selection) {
  std::string failure;
  const absl::Status status =
      guarded([&] { return cuda::run(selection, scratch, stream, &failure); });
  return failure.empty() ? status : launch_status(failure);
}
#endif

// Runs a kernel of kernels/ on checked arguments: cpu::run, or cuda::run with TensorFlow's memory
// as its scratch.
template <typename Device, typename... Arguments>
absl::Status launch(OpKernelContext* context, const Arguments&... arguments) {
  if constexpr (std::is_same_v<Device, CPU>) {
    return guarded(
        [&] { return cpu::run(arguments..., cpu::best_instruction_set(), parallel_for(context)); });
#if defined(PROSPR_CUDA)
  } else {
    TF_RETURN_IF_ERROR(status_of(cuda::check_limits(arguments...)));
    Tensor scratch;
    TF_RETURN_IF_ERROR(
        context->allocate_temp(tensorflow::DT_INT8, {cuda::scratch_bytes(arguments...)}, &scratch));
    return run_on_gpu(scratch.flat<std::int8_t>().data(), stream_of(context), arguments...);
#endif
  }
}

}  // namespace prospr::ops
