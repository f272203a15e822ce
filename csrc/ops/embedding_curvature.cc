#include "ops/curvature.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>EmbeddingCurvature")
    .Input("indices: I")
    .Input("factors: T")
    .Input("accumulator: A")
    .Output("curvature: A")
    .Attr("I: {int32, int64}")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("A: {float, double} = DT_FLOAT")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      TF_RETURN_IF_ERROR(check_accumulator_type(context));
      context->set_output(0, context->input(2));
      cpu::Shape shapes[3];
      cpu::EmbeddingShape checked;
      if (!known_shapes(context, shapes)) return absl::OkStatus();
      return status_of(cpu::check_embedding(shapes[0], shapes[1], shapes[2], &checked));
    })
    .Doc(R"doc(
The diagonal of the (generalised Gauss-Newton) Hessian of an embedding's table, in closed form.

curvature[v, o] = accumulator[v, o]
                  + sum_n sum_c (sum over t with indices[n, t] = v of factors[c, n, t, o])^2,
t being all axes of indices after the first. Positions are summed before the square. Nothing is
divided by the number of samples: all scale, such as 1 / sqrt(N), is in the factors. Sums are kept
in the accumulator's dtype.

The accumulator's buffer is reused for the output where nobody else holds it, so columns or samples
can come in several calls. The result is the same bits for every number of threads.

indices: The layer's input, [N, ...]; each at least 0 and less than V, or the op fails. On a GPU,
  which is not waited for, any other index counts for nothing, as in TensorFlow's gather there.
factors: Gradient factors at its output, [C, N, ..., O], the middle axes being those of indices.
accumulator: [V, O]; float64 for float64, else float32.
curvature: [V, O].
)doc");

template <typename Device, typename T, typename Sum, typename Index>
class EmbeddingCurvatureOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& indices = context->input(0);
    const tensorflow::Tensor& factors = context->input(1);
    cpu::EmbeddingShape shape;
    OP_REQUIRES_OK(context, status_of(cpu::check_embedding(shape_of(indices), shape_of(factors),
                                                           shape_of(context->input(2)), &shape)));
    Sum* curvature;
    OP_REQUIRES_OK(context, forward_accumulator<Device>(context, &curvature));
    const cpu::EmbeddingCurvature<typename KernelType<T>::Type, Index> embedding{
        shape, indices.flat<Index>().data(), data_of<T>(factors), curvature};
    OP_REQUIRES_OK(context, Contraction<Device>::run(context, embedding));
  }
};

#define REGISTER_WITH_INDEX(D, T, A, Index)                   \
  REGISTER_KERNEL_BUILDER(Name("Prospr>EmbeddingCurvature")   \
                              .Device(tensorflow::DEVICE_##D) \
                              .TypeConstraint<Index>("I")     \
                              .TypeConstraint<T>("T")         \
                              .TypeConstraint<A>("A"),        \
                          EmbeddingCurvatureOp<D, T, A, Index>)
#define REGISTER(D, T, A)                     \
  REGISTER_WITH_INDEX(D, T, A, std::int32_t); \
  REGISTER_WITH_INDEX(D, T, A, std::int64_t)
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
#undef REGISTER_WITH_INDEX

}  // namespace prospr::ops
