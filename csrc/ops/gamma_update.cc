#include "ops/gamma.h"
#include "ops/variables.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>GammaUpdate")
    .Input("log_gamma: T")
    .Input("sign: int8")
    .Input("curvature: T")
    .Input("learning_rate: T")
    .Output("new_log_gamma: T")
    .Output("new_sign: int8")
    .Attr("T: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      TF_RETURN_IF_ERROR(same_shape_then_scalars(context, 0, 3));
      tensorflow::shape_inference::ShapeHandle shape = context->input(0);
      TF_RETURN_IF_ERROR(context->Merge(shape, context->input(1), &shape));
      TF_RETURN_IF_ERROR(context->Merge(shape, context->input(2), &shape));
      context->set_output(0, shape);
      context->set_output(1, shape);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Multiplies the factor gamma = 1 - learning_rate * curvature into a running product.

The product is kept as the logarithm of its magnitude and a sign:
new_log_gamma = log_gamma + log|gamma|, new_sign = sign * sign(gamma). The logarithm is exact to
about 2.5 units in the last place for every gamma: curvature far under the machine's epsilon still
counts. gamma = 0 gives -inf and keeps the sign. NaN and infinity in curvature propagate.

The inputs' buffers are reused for the outputs where nobody else holds them. The result is the same
bits for every number of threads and every instruction set.

log_gamma: Sum of log|gamma| so far. Any shape with at least one element.
sign: -1 or +1, in log_gamma's shape.
curvature: Diagonal of the Hessian, in log_gamma's shape.
learning_rate: A finite scalar, at least 0.
new_log_gamma: In log_gamma's shape.
new_sign: In log_gamma's shape.
)doc");

template <typename Device, typename T>
class GammaUpdateOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& log_gamma = context->input(0);
    const tensorflow::Tensor& sign = context->input(1);
    const tensorflow::Tensor& curvature = context->input(2);
    OP_REQUIRES_OK(context, check_not_empty("log_gamma", log_gamma.shape()));
    OP_REQUIRES_OK(context, check_same_shape("log_gamma", log_gamma.shape(), "sign", sign.shape()));
    OP_REQUIRES_OK(
        context, check_same_shape("log_gamma", log_gamma.shape(), "curvature", curvature.shape()));
    T learning_rate;
    OP_REQUIRES_OK(context, read_scalar(context, "learning_rate", &learning_rate));

    tensorflow::Tensor* new_log_gamma;
    tensorflow::Tensor* new_sign;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, log_gamma.shape(),
                                                                      &new_log_gamma));
    OP_REQUIRES_OK(context,
                   context->forward_input_or_allocate_output({1}, 1, sign.shape(), &new_sign));
    const cpu::GammaUpdate<T> update{
        curvature.flat<T>().data(),      learning_rate,
        log_gamma.flat<T>().data(),      sign.flat<std::int8_t>().data(),
        new_log_gamma->flat<T>().data(), new_sign->flat<std::int8_t>().data()};
    OP_REQUIRES_OK(context, Gamma<Device>::run(context, update, log_gamma.NumElements()));
  }
};

// Host memory means nothing to a CPU.
#define REGISTER(D, T)                                        \
  REGISTER_KERNEL_BUILDER(Name("Prospr>GammaUpdate")          \
                              .Device(tensorflow::DEVICE_##D) \
                              .TypeConstraint<T>("T")         \
                              .HostMemory("learning_rate"),   \
                          GammaUpdateOp<D, T>)
REGISTER(CPU, float);
REGISTER(CPU, double);
#if defined(PROSPR_CUDA)
REGISTER(GPU, float);
REGISTER(GPU, double);
#endif
#undef REGISTER

}  // namespace prospr::ops
