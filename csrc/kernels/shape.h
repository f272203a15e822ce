// Shapes, and the checks on them that several families share. A check returns what is wrong, in the
// words that a caller reads, or an empty string.
//
// kernels/ is in namespace prospr itself, so that cpu, cuda, ops and bindings use one set of names.
// It knows no device, no thread and no TensorFlow.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace prospr {

using Shape = std::vector<std::int64_t>;

struct NamedShape {
  std::string name;  // the argument's
  Shape shape;
};

// "[2,3]".
std::string text(const Shape& shape);

// The number of elements, or the largest number if the product is larger: shape functions see
// shapes that no tensor has.
std::int64_t product(Shape::const_iterator begin, Shape::const_iterator end);

// "weights has shape [2]; it must be " and what is wanted.
std::string must_be(const std::string& name, const Shape& shape, const std::string& wanted);

std::string check_not_empty(const std::string& name, const Shape& shape);
std::string check_axes(const std::string& name, const Shape& shape, std::size_t axes);
std::string check_shape(const std::string& name, const Shape& shape, const Shape& wanted);

// A height and a width, both positive 32-bit numbers.
std::string check_pair(const std::string& name, const Shape& pair);

// Whether all arguments have the shape of the first.
std::string check_same_shape(const std::vector<NamedShape>& arguments);

}  // namespace prospr
