#include "ops/variables.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/resource_mgr.h"

namespace prospr::ops {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;

absl::Status check_same_shape(const std::string& name, const TensorShape& shape,
                              const std::string& other_name, const TensorShape& other) {
  if (shape == other) return absl::OkStatus();
  return absl::InvalidArgumentError(name + " has shape " + shape.DebugString() + "; " + other_name +
                                    " must have the same, not " + other.DebugString());
}

absl::Status check_not_empty(const std::string& name, const TensorShape& shape) {
  if (shape.num_elements() > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(name + " has shape " + shape.DebugString() +
                                    "; at least one element is needed");
}

template <typename T>
absl::Status read_scalar(OpKernelContext* context, const std::string& name, T* value) {
  const Tensor* tensor;
  TF_RETURN_IF_ERROR(context->input(name, &tensor));
  if (tensor->dims() != 0) {
    return absl::InvalidArgumentError(name + " must be a scalar, not of shape " +
                                      tensor->shape().DebugString());
  }
  *value = tensor->scalar<T>()();
  if (!std::isfinite(*value) || *value < 0) {
    return absl::InvalidArgumentError(name + " must be finite and not negative, not " +
                                      std::to_string(*value));
  }
  return absl::OkStatus();
}

template absl::Status read_scalar<float>(OpKernelContext*, const std::string&, float*);
template absl::Status read_scalar<double>(OpKernelContext*, const std::string&, double*);

absl::Status LockedVariables::lock(OpKernelContext* context,
                                   const std::vector<Argument>& arguments) {
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
    TF_RETURN_IF_ERROR(check_not_empty(name, value.shape()));
    TF_RETURN_IF_ERROR(check_same_shape(arguments[0].name, shape(), name, value.shape()));
  }
  return absl::OkStatus();
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

absl::Status same_shape_then_scalars(tensorflow::shape_inference::InferenceContext* context,
                                     int variables, int tensors) {
  tensorflow::shape_inference::ShapeHandle shape = context->UnknownShape();
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
