#include "ops/arguments.h"

namespace prospr::ops {

Shape shape_of(const TensorShape& shape) {
  const auto sizes = shape.dim_sizes();
  return Shape(sizes.begin(), sizes.end());
}

absl::Status status_of(const std::string& wrong) {
  return wrong.empty() ? absl::OkStatus() : absl::InvalidArgumentError(wrong);
}

std::vector<Shape> known_shapes(InferenceContext* context, int count) {
  std::vector<Shape> shapes(count);
  for (int i = 0; i < count; ++i) {
    const ShapeHandle input = context->input(i);
    if (!context->FullyDefined(input)) return {};
    for (int axis = 0; axis < context->Rank(input); ++axis) {
      shapes[i].push_back(context->Value(context->Dim(input, axis)));
    }
  }
  return shapes;
}

}  // namespace prospr::ops
