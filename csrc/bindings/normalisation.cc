#include "cpu/normalisation.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

// Checks the tensors, and fills in pointers, rows and channels.
template <template <typename> class Arguments, typename T>
void read_tensors(const std::vector<Array<T>>& tensors, Arguments<T>* arguments) {
  std::vector<Shape> shapes;
  for (const Array<T>& tensor : tensors) {
    shapes.push_back(shape_of("tensors", tensor));
    arguments->tensors.push_back(tensor.data());
  }
  raise_if(check_tensors(shapes, &arguments->rows, &arguments->channels));
}

template <typename T>
Array<double> channel_products(const std::vector<Array<T>>& tensors, int threads,
                               const std::string& instruction_set) {
  ChannelProducts<T> arguments{};
  read_tensors(tensors, &arguments);
  const auto size = static_cast<std::int64_t>(tensors.size()) + 1;
  Array<double> products({size, size, arguments.channels});
  arguments.products = products.mutable_data();
  cpu::run(arguments, instruction_set_or_best(instruction_set), split_into(threads));
  return products;
}

template <typename T>
std::vector<Array<T>> channel_combinations(const std::vector<Array<T>>& tensors,
                                           const Array<T>& coefficients, int threads,
                                           const std::string& instruction_set) {
  ChannelCombinations<T> arguments{};
  read_tensors(tensors, &arguments);
  const Shape given = shape_of("coefficients", coefficients);
  const std::int64_t results = given.empty() ? 1 : std::max<std::int64_t>(given[0], 1);
  const auto terms = static_cast<std::int64_t>(tensors.size()) + 1;
  raise_if(check_shape("coefficients", given, {results, terms, arguments.channels}));
  arguments.coefficients = coefficients.data();
  const py::array::ShapeContainer shape(tensors[0].shape(), tensors[0].shape() + tensors[0].ndim());
  std::vector<Array<T>> combined;
  for (std::int64_t i = 0; i < results; ++i) {
    arguments.results.push_back(combined.emplace_back(shape).mutable_data());
  }
  cpu::run(arguments, instruction_set_or_best(instruction_set), split_into(threads));
  return combined;
}

template <typename T>
void define(py::module_& module) {
  using namespace py::literals;
  module.def("channel_products", &channel_products<T>, "tensors"_a.noconvert(), "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("channel_combinations", &channel_combinations<T>, "tensors"_a.noconvert(),
             "coefficients"_a.noconvert(), "threads"_a = 1, "instruction_set"_a = "");
}

}  // namespace

void define_normalisation(py::module_& module) {
  define<float>(module);
  define<double>(module);
}

}  // namespace prospr::bindings
