// What the curvature ops share.
#pragma once

#include "cpu/curvature.h"
#include "ops/kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace prospr::ops {

cpu::Shape shape_of(const tensorflow::Tensor& tensor);

// Output 0 with input 2's values, the accumulator's: its own buffer if nobody else holds it.
template <typename Sum>
absl::Status forward_accumulator(tensorflow::OpKernelContext* context, Sum** curvature);

// Of attributes T and A: A must be the type that sums of T are kept in.
absl::Status check_accumulator_type(tensorflow::shape_inference::InferenceContext* context);

// Reads the shapes of three inputs; false unless all are fully known.
bool known_shapes(tensorflow::shape_inference::InferenceContext* context, cpu::Shape shapes[3]);

}  // namespace prospr::ops
