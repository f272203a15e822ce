// What the ops behind batch normalisation share.
#pragma once

#include <cstdint>

#include "cpu/normalisation.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace prospr::ops {

// The one shape of the inputs "tensors", which come first.
inline absl::Status merged_tensors(tensorflow::shape_inference::InferenceContext* context,
                                   tensorflow::shape_inference::ShapeHandle* shape) {
  std::int64_t count;
  TF_RETURN_IF_ERROR(context->GetAttr("N", &count));
  if (count > cpu::kMostTensors) {
    return absl::InvalidArgumentError("there are " + std::to_string(count) + " tensors; at most " +
                                      std::to_string(cpu::kMostTensors) + " are accepted");
  }
  TF_RETURN_IF_ERROR(context->WithRankAtLeast(context->input(0), 1, shape));
  for (std::int64_t i = 1; i < count; ++i) {
    TF_RETURN_IF_ERROR(context->Merge(*shape, context->input(i), shape));
  }
  return absl::OkStatus();
}

// Checks them once more, and takes pointers and shape; Plan is one of cpu/normalisation.h.
template <template <typename> class Plan, typename T>
absl::Status read_tensors(const tensorflow::OpInputList& tensors, Plan<T>* plan) {
  const tensorflow::TensorShape& shape = tensors[0].shape();
  if (tensors.size() > cpu::kMostTensors || shape.dims() < 1 || shape.num_elements() == 0) {
    return absl::InvalidArgumentError("tensors must be 1 to " + std::to_string(cpu::kMostTensors) +
                                      " of a shape [..., channels] with elements; there are " +
                                      std::to_string(tensors.size()) + ", the first of shape " +
                                      shape.DebugString());
  }
  for (const tensorflow::Tensor& tensor : tensors) {
    if (tensor.shape() != shape) {
      return absl::InvalidArgumentError("the tensors have different shapes, among them " +
                                        shape.DebugString() + " and " +
                                        tensor.shape().DebugString());
    }
    plan->tensors.push_back(tensor.flat<T>().data());
  }
  plan->channels = shape.dim_size(shape.dims() - 1);
  plan->rows = shape.num_elements() / plan->channels;
  return absl::OkStatus();
}

}  // namespace prospr::ops
