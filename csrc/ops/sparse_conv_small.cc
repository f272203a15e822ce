#include "kernels/sparse_conv_small.h"

#include <utility>

#include "ops/register.h"
#include "ops/window.h"

namespace prospr::ops {

REGISTER_OP("Prospr>SparseConvSmall")
    .Input("image: T")
    .Input("weights: T")
    .Input("scale: T")
    .Input("bias: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Output("output: T")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME'}")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      Window window;
      TF_RETURN_IF_ERROR(read_window(context, &window));
      ShapeHandle output;
      ShapeHandle bias;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &output));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(3), 1, &bias));
      TF_RETURN_IF_ERROR(replace_positions(context, window, &output));
      TF_RETURN_IF_ERROR(context->ReplaceDim(output, 3, context->Dim(bias, 0), &output));
      context->set_output(0, output);
      return absl::OkStatus();
    })
    .Doc(R"doc(
SparseConv on images as TensorFlow lays them, for few samples, with a factor for each filter.

output[n, r, s, f] = bias[f] + scale[f] * sum over k in [splits[f], splits[f + 1]) of weights[k] *
image[n, r * strides[0] - above + i * dilations[0], s * strides[1] - left + j * dilations[1], c],
where taps[k] = (i * kernel_width + j) * C + c; several weights of a filter may have one tap. The
result is the same bits for every number of threads.

image: [N, H, W, C].
weights: [K].
scale: [F].
bias: [F].
taps: [K], each in [0, kernel_height * kernel_width * C).
splits: [F + 1], rising from 0 to K.
kernel_size: Height and width of the filters.
strides: By how much they move.
dilations: Distance of neighbouring elements of a filter.
padding: As in Conv2D.
output: [N, R, S, F].
)doc");

template <typename Device, typename T>
class SparseConvSmallOp : public OpKernel {
 public:
  explicit SparseConvSmallOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_window(context, &window_));
  }

  void Compute(OpKernelContext* context) override {
    const Shape image = shape_of(context->input(0));
    const Tensor& weights = context->input(1);
    const Tensor& scale = context->input(2);
    const Tensor& bias = context->input(3);
    const Tensor& taps = context->input(4);
    const Tensor& splits = context->input(5);
    SparseConvSmall<T> map{{taps.flat<std::int32_t>().data(), splits.flat<std::int32_t>().data()},
                           data_of<T>(context->input(0)),
                           data_of<T>(weights),
                           data_of<T>(scale),
                           data_of<T>(bias),
                           nullptr};
    // A plan that is there tells that pattern and shape were checked.
    Planned planned = last_plan_.find({taps, splits}, image);
    const bool is_new = planned.plan == nullptr;
    if (is_new) {
      OP_REQUIRES_OK(context, status_of(check_small_filters(image, shape_of(taps), shape_of(splits),
                                                            map.pattern, window_, &planned.shape)));
    }
    const SparseConvShape& shape = planned.shape;
    OP_REQUIRES_OK(context, status_of(check_shape("weights", shape_of(weights), {shape.weights})));
    OP_REQUIRES_OK(context, status_of(check_shape("scale", shape_of(scale), {shape.filters})));
    OP_REQUIRES_OK(context, status_of(check_shape("bias", shape_of(bias), {shape.filters})));
    OP_REQUIRES_OK(context, allocate(context, 0, small_output(shape), &map.output));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, map, &planned.plan));
    if (is_new) last_plan_.keep({taps, splits}, image, std::move(planned));
  }

 private:
  struct Planned {
    SparseConvShape shape;
    cpu::SharedSmallPlan plan;
  };

  Window window_;
  LastPlan<Planned> last_plan_;
};
PROSPR_REGISTER(SparseConvSmall, OnCpu, Floats);

}  // namespace prospr::ops
