// Registers an op's kernels: for each device, and each combination of types.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <memory>

#include "ops/launch.h"
#include "tensorflow/core/framework/kernel_def_builder.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

template <typename... Device>
struct Devices {};
using OnCpu = Devices<CPU>;
#if defined(PROSPR_CUDA)
using OnCpuAndGpu = Devices<CPU, GPU>;
#else
using OnCpuAndGpu = Devices<CPU>;
#endif

// The values of one kernel's type attributes, and the rows of all its kernels.
template <typename... Types>
struct Row {};
template <typename... Rows>
struct Table {};

// A set of types: the names of the attributes, and a row of values per kernel.
struct Floats {
  static constexpr const char* kAttributes[] = {"T"};
  using Kernels = Table<Row<float>, Row<double>>;
};

template <template <typename...> class Op, typename Device, typename... Types>
void register_kernel(const char* name, const char* const attributes[],
                     std::initializer_list<const char*> host_inputs, Row<Types...>) {
  tensorflow::KernelDefBuilder builder(name);
  builder.Device(Device::kName);
  std::size_t i = 0;
  (builder.TypeConstraint<Types>(attributes[i++]), ...);
  for (const char* input : host_inputs) builder.HostMemory(input);
  tensorflow::kernel_factory::OpKernelRegistrar(
      builder.Build(), name,
      [](OpKernelConstruction* context) -> OpKernel* { return new Op<Device, Types...>(context); });
}

template <template <typename...> class Op, typename Device, typename... Rows>
void register_table(const char* name, const char* const attributes[],
                    std::initializer_list<const char*> host_inputs, Table<Rows...>) {
  (register_kernel<Op, Device>(name, attributes, host_inputs, Rows()), ...);
}

template <template <typename...> class Op, typename Types, typename... Device>
bool register_op(const char* name, Devices<Device...>,
                 std::initializer_list<const char*> host_inputs) {
  (register_table<Op, Device>(name, Types::kAttributes, host_inputs, typename Types::Kernels()),
   ...);
  return true;
}

}  // namespace prospr::ops

// The kernels `Name`Op<Device, types...> of the op Prospr>Name. The rest are the inputs that the op
// reads on the host; CPU kernels ignore HostMemory, so both devices share this macro.
#define PROSPR_REGISTER(Name, OnDevices, Types, ...)     \
  [[maybe_unused]] static const bool registered_##Name = \
      ::prospr::ops::register_op<Name##Op, Types>("Prospr>" #Name, OnDevices(), {__VA_ARGS__})
