// The Python module prospr_ops._native: build information, and the CPU kernels on NumPy arrays.
//
// The kernels are the ones the ops run; here tests, sanitizers and fuzzers reach them without
// TensorFlow. Arrays are C-contiguous and are updated in place.
#include "bindings/native.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <exception>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "cpu/triad.h"
#include "kernels/gamma.h"

namespace prospr::bindings {

// `threads` equal parts, each on a thread of its own.
cpu::ParallelFor split_into(int threads) {
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  return [threads](std::int64_t n, double, const cpu::Work& work) {
    const std::int64_t parts = std::min<std::int64_t>(threads, n);
    std::vector<std::exception_ptr> errors(parts);
    const auto run_part = [&](std::int64_t part) {
      try {
        work(n * part / parts, n * (part + 1) / parts);
      } catch (...) {
        errors[part] = std::current_exception();
      }
    };
    std::vector<std::thread> pool;
    pool.reserve(parts);
    std::int64_t part = 1;
    try {
      for (; part < parts; ++part) pool.emplace_back(run_part, part);
    } catch (const std::system_error&) {
      // The system gives no more threads: the rest is done here.
      for (; part < parts; ++part) run_part(part);
    }
    if (parts > 0) run_part(0);
    for (std::thread& thread : pool) thread.join();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
  };
}

void raise_if(const std::string& wrong) {
  if (!wrong.empty()) throw std::invalid_argument(wrong);
}

Shape shape_of(const std::string& name, const py::array& array) {
  if ((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) {
    throw std::invalid_argument(name + " is not aligned to its dtype");
  }
  return Shape(array.shape(), array.shape() + array.ndim());
}

std::int64_t checked_size(const std::vector<std::pair<const char*, const py::array*>>& arrays) {
  std::vector<NamedShape> shapes;
  for (const auto& [name, array] : arrays) shapes.push_back({name, shape_of(name, *array)});
  raise_if(check_weights(shapes));
  return arrays.front().second->size();
}

cpu::InstructionSet instruction_set_or_best(const std::string& name) {
  return name.empty() ? cpu::best_instruction_set() : cpu::instruction_set_named(name);
}

namespace {

void triad(Array<float> result, const Array<float>& a, const Array<float>& b, float scale,
           int threads) {
  const std::int64_t size = checked_size({{"result", &result}, {"a", &a}, {"b", &b}});
  cpu::triad(result.mutable_data(), a.data(), b.data(), scale, size, split_into(threads));
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::istringstream stream(text);
  std::vector<std::string> parts;
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

py::dict build_info() {
  py::dict info;
  info["version"] = PROSPR_VERSION;
  info["tensorflow"] = PROSPR_TENSORFLOW_VERSION;
  info["compiler"] = PROSPR_COMPILER;
  const std::string architectures = PROSPR_CUDA_ARCHITECTURES;
  info["cuda"] = !architectures.empty();
  info["cuda_architectures"] = split(architectures, ',');
  info["cuda_compiler"] = architectures.empty() ? "" : PROSPR_CUDA_COMPILER;
  std::vector<std::string> sets;
  for (const auto set : cpu::available_instruction_sets()) sets.emplace_back(cpu::name_of(set));
  info["instruction_sets"] = sets;
  info["instruction_set"] = cpu::name_of(cpu::best_instruction_set());
  return info;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  using namespace py::literals;
  module.doc() = "Build information, and the CPU kernels on NumPy arrays.";
  module.def("build_info", &build_info);
  module.def("triad", &triad, "result"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(),
             "scale"_a, "threads"_a = 1);
  define_gamma(module);
  define_curvature(module);
  define_select(module);
  define_normalisation(module);
  define_block_normalisation(module);
  define_pooling(module);
  define_sparse_conv(module);
  define_sparse_conv_small(module);
}

}  // namespace prospr::bindings
