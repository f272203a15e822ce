#include "kernels/normalisation.h"

namespace prospr {

std::string check_tensors(const std::vector<Shape>& tensors, std::int64_t* rows,
                          std::int64_t* channels) {
  if (tensors.empty() || tensors.size() > kMostTensors) {
    return "there must be 1 to " + std::to_string(kMostTensors) + " tensors, not " +
           std::to_string(tensors.size());
  }
  std::vector<NamedShape> arguments;
  for (const Shape& shape : tensors) {
    arguments.push_back({"tensors[" + std::to_string(arguments.size()) + "]", shape});
  }
  const Shape& shape = tensors[0];
  std::string wrong = check_not_empty(arguments[0].name, shape);
  if (wrong.empty()) wrong = check_same_shape(arguments);
  if (!wrong.empty()) return wrong;
  if (shape.empty()) return "tensors must have an axis of channels";
  *channels = shape.back();
  *rows = product(shape.begin(), shape.end() - 1);
  return "";
}

}  // namespace prospr
