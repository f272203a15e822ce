// The kernels of the gamma ops, by device.
#pragma once

#include "cpu/gamma.h"
#include "ops/device.h"
#include "ops/parallel_for.h"
#if defined(PROSPR_CUDA)
#include "cuda/gamma.h"
#endif

namespace prospr::ops {

template <typename Device>
struct Gamma;

template <>
struct Gamma<CPU> {
  template <typename T>
  static absl::Status run(tensorflow::OpKernelContext* context, const cpu::GammaUpdate<T>& update,
                          std::int64_t size) {
    cpu::run(update, size, cpu::best_instruction_set(), parallel_for(context));
    return absl::OkStatus();
  }

  template <typename Step>
  static absl::Status run(tensorflow::OpKernelContext* context, const Step& step, std::int64_t size,
                          bool* finite) {
    *finite = cpu::run(step, size, cpu::best_instruction_set(), parallel_for(context));
    return absl::OkStatus();
  }
};

#if defined(PROSPR_CUDA)
template <>
struct Gamma<GPU> {
  template <typename T>
  static absl::Status run(tensorflow::OpKernelContext* context, const cpu::GammaUpdate<T>& update,
                          std::int64_t size) {
    return launch_status(cuda::run(update, size, stream_of(context)));
  }

  template <typename Step>
  static absl::Status run(tensorflow::OpKernelContext* context, const Step& step, std::int64_t size,
                          bool* finite) {
    return launch_status(cuda::run(step, size, finite, stream_of(context)));
  }
};
#endif

}  // namespace prospr::ops
