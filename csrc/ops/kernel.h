// What stands between an op and its kernel.
#pragma once

#include <new>
#include <string>

#include "core/half.h"
#include "tensorflow/core/framework/bfloat16.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace prospr::ops {

// The kernels' name for each of TensorFlow's element types.
template <typename T>
struct KernelType {
  using Type = T;
};
template <>
struct KernelType<Eigen::half> {
  using Type = core::Half;
};
template <>
struct KernelType<tensorflow::bfloat16> {
  using Type = core::BFloat16;
};

template <typename T>
const typename KernelType<T>::Type* data_of(const tensorflow::Tensor& tensor) {
  return reinterpret_cast<const typename KernelType<T>::Type*>(tensor.flat<T>().data());
}

// InvalidArgument if anything is wrong.
absl::Status status_of(const std::string& wrong);

absl::Status check_axes(const char* name, const tensorflow::Tensor& tensor, int axes);

absl::Status check_shape(const char* name, const tensorflow::Tensor& tensor,
                         const tensorflow::TensorShape& expected);

// Runs a kernel; memory that its scratch does not get is an error of the op.
template <typename Run>
absl::Status run_kernel(Run&& run) {
  try {
    return status_of(run());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for the scratch of a kernel");
  }
}

}  // namespace prospr::ops
