#include "cpu/block_normalisation.h"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

template <typename T>
using Residual = std::optional<Array<T>>;

template <typename T>
Array<T> empty_like(const Array<T>& array) {
  return Array<T>(py::array::ShapeContainer(array.shape(), array.shape() + array.ndim()));
}

template <typename T>
py::tuple block_moments(const Array<T>& x, std::int64_t samples, int threads,
                        const std::string& instruction_set) {
  BlockNormShape shape{};
  raise_if(check_block_norm({{"x", shape_of("x", x)}}, samples, {}, nullptr, &shape));
  Array<T> mean({shape.channels});
  Array<T> variance({shape.channels});
  Array<double> moments({std::int64_t{2}, shape.channels});
  cpu::run(shape,
           BlockMoments<T>{x.data(), mean.mutable_data(), variance.mutable_data(),
                           moments.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return py::make_tuple(mean, variance, moments);
}

template <typename T>
BlockNormShape checked(std::vector<NamedShape> tensors, const Residual<T>& residual, bool relu,
                       const Array<T>& scale, const Array<T>& offset, const Array<double>& moments,
                       std::int64_t samples) {
  if (residual && !relu) raise_if("a residual may be given only with a ReLU");
  if (residual) tensors.push_back({"residual", shape_of("residual", *residual)});
  BlockNormShape shape{};
  const Shape of_moments = shape_of("moments", moments);
  raise_if(check_block_norm(
      tensors, samples,
      {{"scale", shape_of("scale", scale)}, {"offset", shape_of("offset", offset)}}, &of_moments,
      &shape));
  return shape;
}

template <typename T>
Array<T> block_norm(const Array<T>& x, const Residual<T>& residual, const Array<T>& scale,
                    const Array<T>& offset, const Array<double>& moments, double epsilon,
                    std::int64_t samples, bool relu, double ceiling, int threads,
                    const std::string& instruction_set) {
  const BlockNormShape shape =
      checked({{"x", shape_of("x", x)}}, residual, relu, scale, offset, moments, samples);
  Array<T> y = empty_like(x);
  cpu::run(shape,
           BlockNorm<T>{epsilon, relu, ceiling, x.data(), residual ? residual->data() : nullptr,
                        scale.data(), offset.data(), moments.data(), y.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return y;
}

template <typename T>
py::tuple block_norm_gradient(const Array<T>& y_gradient, const Array<T>& x,
                              const Residual<T>& residual, const Array<T>& scale,
                              const Array<T>& offset, const Array<double>& moments, double epsilon,
                              std::int64_t samples, bool relu, double ceiling, int threads,
                              const std::string& instruction_set) {
  const BlockNormShape shape =
      checked({{"y_gradient", shape_of("y_gradient", y_gradient)}, {"x", shape_of("x", x)}},
              residual, relu, scale, offset, moments, samples);
  Array<T> x_gradient = empty_like(x);
  Array<T> residual_gradient = residual ? empty_like(x) : Array<T>(0);
  Array<T> scale_gradient({shape.channels});
  Array<T> offset_gradient({shape.channels});
  cpu::run(shape,
           BlockNormGradient<T>{epsilon, relu, ceiling, y_gradient.data(), x.data(),
                                residual ? residual->data() : nullptr, scale.data(), offset.data(),
                                moments.data(), x_gradient.mutable_data(),
                                residual ? residual_gradient.mutable_data() : nullptr,
                                scale_gradient.mutable_data(), offset_gradient.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return py::make_tuple(x_gradient, residual ? py::object(residual_gradient) : py::none(),
                        scale_gradient, offset_gradient);
}

template <typename T>
void define(py::module_& module) {
  using namespace py::literals;
  module.def("block_moments", &block_moments<T>, "x"_a.noconvert(), "samples"_a, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("block_norm", &block_norm<T>, "x"_a.noconvert(), "residual"_a.noconvert(),
             "scale"_a.noconvert(), "offset"_a.noconvert(), "moments"_a.noconvert(), "epsilon"_a,
             "samples"_a, "relu"_a, "ceiling"_a, "threads"_a = 1, "instruction_set"_a = "");
  module.def("block_norm_gradient", &block_norm_gradient<T>, "y_gradient"_a.noconvert(),
             "x"_a.noconvert(), "residual"_a.noconvert(), "scale"_a.noconvert(),
             "offset"_a.noconvert(), "moments"_a.noconvert(), "epsilon"_a, "samples"_a, "relu"_a,
             "ceiling"_a, "threads"_a = 1, "instruction_set"_a = "");
}

}  // namespace

void define_block_normalisation(py::module_& module) {
  define<float>(module);
  define<double>(module);
}

}  // namespace prospr::bindings
