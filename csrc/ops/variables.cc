#include "ops/variables.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/gamma.h"
#include "tensorflow/core/framework/resource_mgr.h"

namespace prospr::ops {

using tensorflow::Var;

absl::Status LockedVariables::lock(OpKernelContext* context, const std::vector<Argument>& arguments,
                                   const std::vector<std::string>& tensors) {
  for (const Argument& argument : arguments) {
    tensorflow::ResourceHandle handle;
    TF_RETURN_IF_ERROR(tensorflow::HandleFromInput(context, argument.name, &handle));
    tensorflow::core::RefCountPtr<Var> variable;
    if (!tensorflow::LookupResource(context, handle, &variable).ok()) {
      return absl::FailedPreconditionError(argument.name + " is not an initialised variable");
    }
    variables_.push_back(std::move(variable));
  }

  std::vector<int> order(arguments.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return variables_[a].get() < variables_[b].get(); });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (variables_[order[i]].get() == variables_[order[i - 1]].get()) {
      return absl::InvalidArgumentError(arguments[order[i - 1]].name + " and " +
                                        arguments[order[i]].name +
                                        " are the same variable; they must be distinct");
    }
  }
  locks_.reserve(order.size());
  for (const int i : order) locks_.emplace_back(*variables_[i]->mu());

  std::vector<NamedShape> shapes;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const Tensor& value = *variables_[i]->tensor();
    const std::string& name = arguments[i].name;
    if (!variables_[i]->is_initialized || !value.IsInitialized()) {
      return absl::FailedPreconditionError(name + " is not an initialised variable");
    }
    if (value.dtype() != arguments[i].dtype) {
      return absl::InvalidArgumentError(name + " must be of dtype " +
                                        tensorflow::DataTypeString(arguments[i].dtype) + ", not " +
                                        tensorflow::DataTypeString(value.dtype()));
    }
    shapes.push_back({name, shape_of(value)});
  }
  for (const std::string& name : tensors) {
    const Tensor* tensor;
    TF_RETURN_IF_ERROR(context->input(name, &tensor));
    shapes.push_back({name, shape_of(*tensor)});
  }
  return status_of(check_weights(shapes));
}

template <typename Device>
absl::Status LockedVariables::make_writable(OpKernelContext* context) {
  for (auto& variable : variables_) {
    Tensor* value = variable->tensor();
    if (value->RefCountIsOne() && !variable->copy_on_read_mode.load()) continue;
    Tensor copy;
    TF_RETURN_IF_ERROR(context->allocate_temp(value->dtype(), value->shape(), &copy));
    TF_RETURN_IF_ERROR(Device::copy(context, const_cast<char*>(copy.tensor_data().data()),
                                    value->tensor_data().data(), value->tensor_data().size()));
    *value = copy;
  }
  return absl::OkStatus();
}

template absl::Status LockedVariables::make_writable<CPU>(OpKernelContext*);
#if defined(PROSPR_CUDA)
template absl::Status LockedVariables::make_writable<GPU>(OpKernelContext*);
#endif

absl::Status same_shape_then_scalars(InferenceContext* context, int variables, int tensors) {
  ShapeHandle shape = context->UnknownShape();
  for (int i = 0; i < variables; ++i) {
    const auto* handle = context->input_handle_shapes_and_types(i);
    if (handle == nullptr || handle->empty()) continue;
    TF_RETURN_IF_ERROR(context->Merge(shape, (*handle)[0].shape, &shape));
  }
  for (int i = variables; i < variables + tensors; ++i) {
    TF_RETURN_IF_ERROR(context->Merge(shape, context->input(i), &shape));
  }
  for (int i = variables + tensors; i < context->num_inputs(); ++i) {
    TF_RETURN_IF_ERROR(context->WithRank(context->input(i), 0, &shape));
  }
  return absl::OkStatus();
}

}  // namespace prospr::ops
