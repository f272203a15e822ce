// What the ops of sparse convolution share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/sparse_conv.h"
#include "ops/attributes.h"
#include "ops/kernel.h"
#include "ops/parallel_for.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace prospr::ops {

// What is below a filter, checked, and the shapes on both sides of it.
struct SparseFilters {
  cpu::SparseConvShape shape;
  cpu::SparsePattern pattern;
  tensorflow::TensorShape image;
  tensorflow::TensorShape output;
};

// `image` is the shape of an image; `kernel_size` was read by read_pair.
inline absl::Status read_filters(const tensorflow::TensorShape& image,
                                 const tensorflow::Tensor& taps, const tensorflow::Tensor& splits,
                                 const std::vector<std::int64_t>& kernel_size,
                                 SparseFilters* filters) {
  TF_RETURN_IF_ERROR(check_axes("taps", taps, 1));
  TF_RETURN_IF_ERROR(check_axes("splits", splits, 1));
  if (splits.NumElements() == 0) {
    return absl::InvalidArgumentError("splits must have an element more than there are filters");
  }
  filters->shape = {image.dim_size(0),        image.dim_size(1), image.dim_size(2),
                    image.dim_size(3),        kernel_size[0],    kernel_size[1],
                    splits.NumElements() - 1, taps.NumElements()};
  filters->pattern = {taps.flat<std::int32_t>().data(), splits.flat<std::int32_t>().data()};
  filters->image = image;
  TF_RETURN_IF_ERROR(status_of(cpu::check(filters->shape, filters->pattern)));
  return tensorflow::TensorShape::BuildTensorShape({filters->shape.rows(), filters->shape.columns(),
                                                    filters->shape.filters, filters->shape.samples},
                                                   &filters->output);
}

template <typename Map>
absl::Status run_sparse_conv(tensorflow::OpKernelContext* context, const SparseFilters& filters,
                             const Map& map) {
  return run_kernel([&] {
    cpu::run(filters.shape, filters.pattern, map, cpu::best_instruction_set(),
             parallel_for(context));
    return std::string();
  });
}

}  // namespace prospr::ops
