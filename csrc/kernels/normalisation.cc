#include "kernels/normalisation.h"

namespace prospr {

std::string check_batch(const std::vector<NamedShape>& tensors,
                        const std::vector<NamedShape>& per_channel, const Shape* moments,
                        BatchShape* shape) {
  const auto& [name, first] = tensors.front();
  std::string wrong = check_not_empty(name, first);
  if (wrong.empty()) wrong = check_same_shape(tensors);
  if (!wrong.empty()) return wrong;
  if (first.empty()) return name + " must have an axis of channels";
  shape->channels = first.back();
  shape->rows = product(first.begin(), first.end() - 1);
  for (const auto& [vector, given] : per_channel) {
    wrong = check_shape(vector, given, {shape->channels});
    if (!wrong.empty()) return wrong;
  }
  return moments == nullptr ? "" : check_shape("moments", *moments, {2, shape->channels});
}

}  // namespace prospr
