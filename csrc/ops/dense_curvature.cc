#include "ops/curvature.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>DenseCurvature")
    .Input("inputs: T")
    .Input("factors: T")
    .Input("accumulator: A")
    .Output("curvature: A")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("A: {float, double} = DT_FLOAT")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      TF_RETURN_IF_ERROR(check_accumulator_type(context));
      context->set_output(0, context->input(2));
      cpu::Shape shapes[3];
      cpu::ConvShape checked;
      if (!known_shapes(context, shapes)) return absl::OkStatus();
      return status_of(cpu::check_dense(shapes[0], shapes[1], shapes[2], &checked));
    })
    .Doc(R"doc(
The diagonal of the (generalised Gauss-Newton) Hessian of a dense layer's kernel, in closed form.

curvature[i, o] = accumulator[i, o] + sum_n sum_c (sum_t inputs[n, t, i] * factors[c, n, t, o])^2,
t being all middle axes together (time steps, say; one position where there are none). Positions are
summed before the square. Nothing is divided by the number of samples: all scale, such as
1 / sqrt(N), is in the factors. Sums are kept in the accumulator's dtype.

With few positions the square is expanded into products of pairs. Its error is then a few roundings
of the sum over n, c of (sum_t |inputs * factors|)^2, which is more than of a result that cancels over
positions, and inputs^2 must not overflow.

The accumulator's buffer is reused for the output where nobody else holds it, so columns or samples
can come in several calls. The result is the same bits for every number of threads.

inputs: The layer's input, [N, ..., I].
factors: Gradient factors at its output before the activation, [C, N, ..., O], the middle axes being
  those of inputs.
accumulator: [I, O]; float64 for float64, else float32.
curvature: [I, O].
)doc");

template <typename Device, typename T, typename Sum>
class DenseCurvatureOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& inputs = context->input(0);
    const tensorflow::Tensor& factors = context->input(1);
    cpu::ConvShape shape;
    OP_REQUIRES_OK(context, status_of(cpu::check_dense(shape_of(inputs), shape_of(factors),
                                                       shape_of(context->input(2)), &shape)));
    Sum* curvature;
    OP_REQUIRES_OK(context, forward_accumulator<Device>(context, &curvature));
    const cpu::ConvCurvature<typename KernelType<T>::Type> convolution{
        shape, data_of<T>(inputs), data_of<T>(factors), curvature};
    OP_REQUIRES_OK(context, Contraction<Device>::run(context, convolution));
  }
};

#define REGISTER(D, T, A)                                     \
  REGISTER_KERNEL_BUILDER(Name("Prospr>DenseCurvature")       \
                              .Device(tensorflow::DEVICE_##D) \
                              .TypeConstraint<T>("T")         \
                              .TypeConstraint<A>("A"),        \
                          DenseCurvatureOp<D, T, A>)
#define REGISTER_ALL(D)                     \
  REGISTER(D, Eigen::half, float);          \
  REGISTER(D, tensorflow::bfloat16, float); \
  REGISTER(D, float, float);                \
  REGISTER(D, double, double)
REGISTER_ALL(CPU);
#if defined(PROSPR_CUDA)
REGISTER_ALL(GPU);
#endif
#undef REGISTER_ALL
#undef REGISTER

}  // namespace prospr::ops
