#include "ops/device.h"

#include <cstring>

#if defined(PROSPR_CUDA)
#include "xla/stream_executor/stream.h"
#endif

namespace prospr::ops {

absl::Status CPU::copy(tensorflow::OpKernelContext*, void* to, const void* from,
                       std::size_t bytes) {
  std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

#if defined(PROSPR_CUDA)
absl::Status GPU::copy(tensorflow::OpKernelContext* context, void* to, const void* from,
                       std::size_t bytes) {
  return launch_status(cuda::copy(to, from, bytes, stream_of(context)));
}

cuda::Stream stream_of(tensorflow::OpKernelContext* context) {
  return static_cast<cuda::Stream>(
      context->op_device_context()->stream()->platform_specific_handle().stream);
}

absl::Status launch_status(const std::string& wrong) {
  return wrong.empty() ? absl::OkStatus() : absl::InternalError(wrong);
}
#endif

}  // namespace prospr::ops
