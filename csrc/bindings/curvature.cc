#include "cpu/curvature.h"

#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

cpu::Shape sizes_of(const py::array& array) {
  return cpu::Shape(array.shape(), array.shape() + array.ndim());
}

void raise_if(const std::string& wrong) {
  if (!wrong.empty()) throw std::invalid_argument(wrong);
}

cpu::Padding padding_named(const std::string& name) {
  if (name == "valid") return cpu::Padding::kValid;
  if (name == "same") return cpu::Padding::kSame;
  if (name == "causal") return cpu::Padding::kCausal;
  throw std::invalid_argument("padding '" + name + "' is not one of valid, same, causal");
}

void check_all_aligned(const py::array& inputs, const py::array& factors,
                       const py::array& accumulator) {
  check_aligned("inputs", inputs);
  check_aligned("factors", factors);
  check_aligned("accumulator", accumulator);
}

template <typename T>
void dense_curvature(const Array<T>& inputs, const Array<T>& factors, Array<T> accumulator,
                     int threads, const std::string& instruction_set) {
  check_all_aligned(inputs, factors, accumulator);
  cpu::ConvShape shape;
  raise_if(cpu::check_dense(sizes_of(inputs), sizes_of(factors), sizes_of(accumulator), &shape));
  cpu::run(cpu::ConvCurvature<T>{shape, inputs.data(), factors.data(), accumulator.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
}

template <typename T>
void conv_curvature(const Array<T>& inputs, const Array<T>& factors, Array<T> accumulator,
                    const std::vector<std::int64_t>& strides,
                    const std::vector<std::int64_t>& dilations, const std::string& padding,
                    std::int64_t groups, int threads, const std::string& instruction_set) {
  check_all_aligned(inputs, factors, accumulator);
  cpu::ConvShape shape;
  raise_if(cpu::check_conv(sizes_of(inputs), sizes_of(factors), sizes_of(accumulator),
                           {strides, dilations, padding_named(padding), groups}, &shape));
  cpu::run(cpu::ConvCurvature<T>{shape, inputs.data(), factors.data(), accumulator.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
}

template <typename T>
void pooled_conv_curvature(const Array<T>& inputs, const Array<T>& factors,
                           const Array<T>& derivative, Array<T> accumulator,
                           const std::vector<std::int64_t>& strides,
                           const std::vector<std::int64_t>& dilations, const std::string& padding,
                           std::int64_t groups, int threads, const std::string& instruction_set) {
  check_all_aligned(inputs, factors, accumulator);
  check_aligned("derivative", derivative);
  cpu::ConvShape shape;
  cpu::PooledFactors<T> pooled{{}, factors.data(), derivative.data()};
  raise_if(cpu::check_pooled_conv(
      sizes_of(inputs), sizes_of(factors), sizes_of(derivative), sizes_of(accumulator),
      {strides, dilations, padding_named(padding), groups}, &shape, pooled.windows));
  cpu::run(cpu::ConvCurvature<T>{shape, inputs.data(), nullptr, accumulator.mutable_data(), pooled},
           instruction_set_or_best(instruction_set), split_into(threads));
}

template <typename T>
Array<T> pooled_conv_input_gradient(const Array<T>& kernel, const Array<T>& factors,
                                    const Array<T>& derivative,
                                    const std::vector<std::int64_t>& input_size,
                                    const std::vector<std::int64_t>& strides,
                                    const std::vector<std::int64_t>& dilations,
                                    const std::string& padding, std::int64_t groups, int threads,
                                    const std::string& instruction_set) {
  check_aligned("kernel", kernel);
  check_aligned("factors", factors);
  check_aligned("derivative", derivative);
  cpu::ConvShape shape;
  cpu::PooledFactors<T> pooled{{}, factors.data(), derivative.data()};
  raise_if(cpu::check_pooled_conv_input_gradient(
      sizes_of(kernel), sizes_of(factors), sizes_of(derivative), input_size,
      {strides, dilations, padding_named(padding), groups}, &shape, pooled.windows));
  std::vector<py::ssize_t> sizes = {shape.columns, shape.samples};
  sizes.insert(sizes.end(), input_size.begin(), input_size.end());
  sizes.push_back(shape.input_channels);
  Array<T> gradient(sizes);
  cpu::run(cpu::ConvInputGradient<T>{shape, kernel.data(), pooled, gradient.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return gradient;
}

template <typename T, typename Index>
void embedding_curvature(const Array<Index>& indices, const Array<T>& factors, Array<T> accumulator,
                         int threads, const std::string& instruction_set) {
  check_all_aligned(indices, factors, accumulator);
  cpu::EmbeddingShape shape;
  raise_if(
      cpu::check_embedding(sizes_of(indices), sizes_of(factors), sizes_of(accumulator), &shape));
  raise_if(cpu::run(cpu::EmbeddingCurvature<T, Index>{shape, indices.data(), factors.data(),
                                                      accumulator.mutable_data()},
                    instruction_set_or_best(instruction_set), split_into(threads)));
}

template <typename T>
void define_contractions(py::module_& module) {
  using namespace py::literals;
  module.def("dense_curvature", &dense_curvature<T>, "inputs"_a.noconvert(),
             "factors"_a.noconvert(), "accumulator"_a.noconvert(), "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("conv_curvature", &conv_curvature<T>, "inputs"_a.noconvert(), "factors"_a.noconvert(),
             "accumulator"_a.noconvert(), "strides"_a, "dilations"_a, "padding"_a = "valid",
             "groups"_a = 1, "threads"_a = 1, "instruction_set"_a = "");
  module.def("pooled_conv_curvature", &pooled_conv_curvature<T>, "inputs"_a.noconvert(),
             "factors"_a.noconvert(), "derivative"_a.noconvert(), "accumulator"_a.noconvert(),
             "strides"_a, "dilations"_a, "padding"_a = "valid", "groups"_a = 1, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("pooled_conv_input_gradient", &pooled_conv_input_gradient<T>, "kernel"_a.noconvert(),
             "factors"_a.noconvert(), "derivative"_a.noconvert(), "input_size"_a, "strides"_a,
             "dilations"_a, "padding"_a = "valid", "groups"_a = 1, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("embedding_curvature", &embedding_curvature<T, std::int32_t>, "indices"_a.noconvert(),
             "factors"_a.noconvert(), "accumulator"_a.noconvert(), "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("embedding_curvature", &embedding_curvature<T, std::int64_t>, "indices"_a.noconvert(),
             "factors"_a.noconvert(), "accumulator"_a.noconvert(), "threads"_a = 1,
             "instruction_set"_a = "");
}

}  // namespace

void define_curvature(py::module_& module) {
  define_contractions<float>(module);
  define_contractions<double>(module);
}

}  // namespace prospr::bindings
