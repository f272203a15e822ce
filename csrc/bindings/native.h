// What the files of the Python module prospr_ops._native share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/shape.h"

namespace prospr::bindings {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// `threads` equal parts, each on a thread of its own.
cpu::ParallelFor split_into(int threads);

// An exception, unless `wrong` is empty.
void raise_if(const std::string& wrong);

// The shape of an array, whose data must be aligned to its dtype.
Shape shape_of(const std::string& name, const py::array& array);

// The common size of arrays of one shape, all aligned.
std::int64_t checked_size(const std::vector<std::pair<const char*, const py::array*>>& arrays);

cpu::InstructionSet instruction_set_or_best(const std::string& name);

// Each adds its family of kernels. Arguments are taken as they are: an array of another dtype or
// layout would be a copy, and an in-place kernel must not work on a copy.
void define_gamma(py::module_& module);
void define_curvature(py::module_& module);
void define_select(py::module_& module);
void define_normalisation(py::module_& module);
void define_block_normalisation(py::module_& module);
void define_pooling(py::module_& module);
void define_sparse_conv(py::module_& module);
void define_sparse_conv_small(py::module_& module);

}  // namespace prospr::bindings
