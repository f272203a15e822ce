// What the ops of sparse convolution share.
#pragma once

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kernels/sparse_conv.h"
#include "ops/arguments.h"

namespace prospr::ops {

// Reads a window's attributes, from an OpKernelConstruction or an InferenceContext.
template <typename Context>
absl::Status read_window(Context* context, Window* window) {
  Shape kernel_size;
  Shape strides;
  Shape dilations;
  std::string padding;
  TF_RETURN_IF_ERROR(context->GetAttr("kernel_size", &kernel_size));
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &strides));
  TF_RETURN_IF_ERROR(context->GetAttr("dilations", &dilations));
  TF_RETURN_IF_ERROR(context->GetAttr("padding", &padding));
  return status_of(check_window(kernel_size, strides, dilations, padding == "SAME", window));
}

// Puts the positions of a window, as far as they are known, where an image has its rows and
// columns.
inline absl::Status replace_positions(InferenceContext* context, const Window& window,
                                      ShapeHandle* image) {
  // Of an axis alone, the positions are those of an image of as many rows and columns.
  for (const int axis : {1, 2}) {
    const DimensionHandle size = context->Dim(*image, axis);
    DimensionHandle positions = context->UnknownDim();
    if (context->ValueKnown(size)) {
      const std::int64_t known = context->Value(size);
      const SparseConvShape shape{1, known, known, 1, window, 1, 0};
      positions = context->MakeDim(axis == 1 ? shape.rows() : shape.columns());
    }
    TF_RETURN_IF_ERROR(context->ReplaceDim(*image, axis, positions, image));
  }
  return absl::OkStatus();
}

// The plan of the pattern and the shape that were given last. The pattern's tensors are held, so
// that nothing else comes to lie where they are.
template <typename Plan>
class LastPlan {
 public:
  using Numbers = std::vector<std::int64_t>;

  Plan find(const std::vector<Tensor>& pattern, const Numbers& shape) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (shape != shape_ || pattern.size() != pattern_.size()) return {};
    for (std::size_t i = 0; i < pattern.size(); ++i) {
      if (pattern[i].data() != pattern_[i].data() || pattern[i].shape() != pattern_[i].shape()) {
        return {};
      }
    }
    return plan_;
  }

  void keep(const std::vector<Tensor>& pattern, const Numbers& shape, Plan plan) {
    const std::lock_guard<std::mutex> lock(mutex_);
    pattern_ = pattern;
    shape_ = shape;
    plan_ = std::move(plan);
  }

 private:
  std::mutex mutex_;
  std::vector<Tensor> pattern_;
  Numbers shape_;
  Plan plan_;
};

}  // namespace prospr::ops
