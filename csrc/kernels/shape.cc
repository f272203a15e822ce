#include "kernels/shape.h"

#include <algorithm>
#include <limits>

namespace prospr {

std::string text(const Shape& shape) {
  std::string result = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    result += (i == 0 ? "" : ",") + std::to_string(shape[i]);
  }
  return result + "]";
}

std::int64_t product(Shape::const_iterator begin, Shape::const_iterator end) {
  std::int64_t result = 1;
  for (; begin != end; ++begin) {
    if (__builtin_mul_overflow(result, *begin, &result)) {
      return std::numeric_limits<std::int64_t>::max();
    }
  }
  return result;
}

std::string must_be(const std::string& name, const Shape& shape, const std::string& wanted) {
  return name + " has shape " + text(shape) + "; it must be " + wanted;
}

std::string check_not_empty(const std::string& name, const Shape& shape) {
  if (std::none_of(shape.begin(), shape.end(), [](std::int64_t size) { return size < 1; }))
    return "";
  return name + " has shape " + text(shape) + "; at least one element is needed";
}

std::string check_axes(const std::string& name, const Shape& shape, std::size_t axes) {
  if (shape.size() == axes) return "";
  return name + " has shape " + text(shape) + "; it must have " + std::to_string(axes) +
         (axes == 1 ? " axis" : " axes");
}

std::string check_shape(const std::string& name, const Shape& shape, const Shape& wanted) {
  return shape == wanted ? "" : must_be(name, shape, text(wanted));
}

std::string check_pair(const std::string& name, const Shape& pair) {
  const auto fits = [](std::int64_t size) { return size > 0 && size <= 0x7fffffff; };
  if (pair.size() == 2 && fits(pair[0]) && fits(pair[1])) return "";
  return name + " is " + text(pair) +
         "; it must be a height and a width, both positive 32-bit numbers";
}

std::string check_same_shape(const std::vector<NamedShape>& arguments) {
  const NamedShape& first = arguments.front();
  for (const auto& [name, shape] : arguments) {
    if (shape == first.shape) continue;
    return first.name + " has shape " + text(first.shape) + "; " + name +
           " must have the same, not " + text(shape);
  }
  return "";
}

}  // namespace prospr
