// What the ops behind max-pooling share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/pooling.h"
#include "ops/attributes.h"
#include "ops/kernel.h"
#include "ops/parallel_for.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace prospr::ops {

// The shape of what is said of the windows of an image.
inline absl::Status windows_shape(tensorflow::shape_inference::InferenceContext* context,
                                  tensorflow::shape_inference::ShapeHandle image,
                                  tensorflow::shape_inference::ShapeHandle* shape) {
  std::vector<std::int64_t> window;
  TF_RETURN_IF_ERROR(read_pair(context, "window", &window));
  TF_RETURN_IF_ERROR(context->WithRank(image, 4, shape));
  for (int axis = 0; axis < 2; ++axis) {
    tensorflow::shape_inference::DimensionHandle size;
    TF_RETURN_IF_ERROR(context->Divide(context->Dim(*shape, axis + 1), window[axis],
                                       /*evenly_divisible=*/false, &size));
    TF_RETURN_IF_ERROR(context->ReplaceDim(*shape, axis + 1, size, shape));
  }
  return absl::OkStatus();
}

// The windows of an image, checked, and the shape of what is said of them.
inline absl::Status read_windows(const tensorflow::TensorShape& image,
                                 const std::vector<std::int64_t>& window, cpu::Windows* windows,
                                 tensorflow::TensorShape* shape) {
  if (image.dims() != 4) {
    return absl::InvalidArgumentError(
        "an image must be of shape [samples, height, width, channels], not " + image.DebugString());
  }
  *windows = {image.dim_size(0), image.dim_size(1), image.dim_size(2),
              image.dim_size(3), window[0],         window[1]};
  TF_RETURN_IF_ERROR(status_of(cpu::check(*windows)));
  *shape = {windows->samples, windows->rows(), windows->columns(), windows->channels};
  return absl::OkStatus();
}

template <typename Map>
void run_pooling(tensorflow::OpKernelContext* context, const cpu::Windows& windows,
                 const Map& map) {
  cpu::run(windows, map, cpu::best_instruction_set(), parallel_for(context));
}

}  // namespace prospr::ops
