#include "cpu/normalisation.h"

#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

// Pointers and shape of tensors, into a plan of cpu/normalisation.h.
template <template <typename> class Plan, typename T>
void read_tensors(const std::vector<Array<T>>& tensors, Plan<T>* plan) {
  if (tensors.empty() || static_cast<std::int64_t>(tensors.size()) > cpu::kMostTensors) {
    throw std::invalid_argument("there must be 1 to " + std::to_string(cpu::kMostTensors) +
                                " tensors, not " + std::to_string(tensors.size()));
  }
  std::vector<std::pair<const char*, const py::array*>> arrays;
  for (const Array<T>& tensor : tensors) arrays.emplace_back("tensors", &tensor);
  const std::int64_t size = checked_size(arrays);
  if (tensors[0].ndim() == 0) throw std::invalid_argument("tensors must have an axis of channels");
  for (const Array<T>& tensor : tensors) plan->tensors.push_back(tensor.data());
  plan->channels = tensors[0].shape(tensors[0].ndim() - 1);
  plan->rows = size / plan->channels;
}

template <typename T>
Array<double> channel_products(const std::vector<Array<T>>& tensors, int threads,
                               const std::string& instruction_set) {
  cpu::ChannelProducts<T> plan{};
  read_tensors(tensors, &plan);
  const auto size = static_cast<std::int64_t>(tensors.size()) + 1;
  Array<double> products({size, size, plan.channels});
  plan.products = products.mutable_data();
  cpu::run(plan, instruction_set_or_best(instruction_set), split_into(threads));
  return products;
}

template <typename T>
std::vector<Array<T>> channel_combinations(const std::vector<Array<T>>& tensors,
                                           const Array<T>& coefficients, int threads,
                                           const std::string& instruction_set) {
  cpu::ChannelCombinations<T> plan{};
  read_tensors(tensors, &plan);
  check_aligned("coefficients", coefficients);
  if (coefficients.ndim() != 3 || coefficients.shape(0) < 1 ||
      coefficients.shape(1) != static_cast<std::int64_t>(tensors.size()) + 1 ||
      coefficients.shape(2) != plan.channels) {
    throw std::invalid_argument("coefficients has shape " + shape_of(coefficients) +
                                "; it must be [results, tensors + 1, channels]");
  }
  plan.coefficients = coefficients.data();
  const py::array::ShapeContainer shape(tensors[0].shape(), tensors[0].shape() + tensors[0].ndim());
  std::vector<Array<T>> results;
  for (std::int64_t i = 0; i < coefficients.shape(0); ++i) {
    plan.results.push_back(results.emplace_back(shape).mutable_data());
  }
  cpu::run(plan, instruction_set_or_best(instruction_set), split_into(threads));
  return results;
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
