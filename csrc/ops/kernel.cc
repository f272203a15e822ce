#include "ops/kernel.h"

namespace prospr::ops {

absl::Status status_of(const std::string& wrong) {
  return wrong.empty() ? absl::OkStatus() : absl::InvalidArgumentError(wrong);
}

absl::Status check_axes(const char* name, const tensorflow::Tensor& tensor, int axes) {
  if (tensor.dims() == axes) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(name) + " must have " + std::to_string(axes) +
                                    (axes == 1 ? " axis" : " axes") + ", not shape " +
                                    tensor.shape().DebugString());
}

absl::Status check_shape(const char* name, const tensorflow::Tensor& tensor,
                         const tensorflow::TensorShape& expected) {
  if (tensor.shape() == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(name) + " must be of shape " +
                                    expected.DebugString() + ", not " +
                                    tensor.shape().DebugString());
}

}  // namespace prospr::ops
