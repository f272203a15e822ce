// What the curvature ops share.
#pragma once

#include "cpu/curvature.h"
#include "ops/kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace prospr::ops {

cpu::Shape shape_of(const tensorflow::Tensor& tensor);

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
