// What the curvature ops share.
#pragma once

#include <new>
#include <string>

#include "cpu/curvature.h"
#include "tensorflow/core/framework/bfloat16.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

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

cpu::Shape shape_of(const tensorflow::Tensor& tensor);

// InvalidArgument if anything is wrong.
absl::Status status_of(const std::string& wrong);

// Runs a kernel; memory that its scratch does not get is an error of the op.
template <typename Run>
absl::Status run_kernel(Run&& run) {
  try {
    return status_of(run());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for the scratch of a curvature contraction");
  }
}

// Output 0 with the values of the accumulator, that input: its own buffer if nobody else holds it.
template <typename Sum>
absl::Status forward_accumulator(tensorflow::OpKernelContext* context, Sum** curvature,
                                 int accumulator_input = 2);

// Of attributes T and A: A must be the type that sums of T are kept in.
absl::Status check_accumulator_type(tensorflow::shape_inference::InferenceContext* context);

// Reads the shapes of the first `count` inputs; false unless all are fully known.
bool known_shapes(tensorflow::shape_inference::InferenceContext* context, cpu::Shape* shapes,
                  int count = 3);

// A convolution's attributes, of an OpKernelConstruction or an InferenceContext.
template <typename Context>
absl::Status read_conv_options(Context* context, cpu::ConvOptions* options) {
  std::string padding;
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &options->strides));
  TF_RETURN_IF_ERROR(context->GetAttr("dilations", &options->dilations));
  TF_RETURN_IF_ERROR(context->GetAttr("groups", &options->groups));
  TF_RETURN_IF_ERROR(context->GetAttr("padding", &padding));
  options->padding = padding == "VALID"  ? cpu::Padding::kValid
                     : padding == "SAME" ? cpu::Padding::kSame
                                         : cpu::Padding::kCausal;
  return absl::OkStatus();
}

}  // namespace prospr::ops
