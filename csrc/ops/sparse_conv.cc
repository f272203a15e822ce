#include "kernels/sparse_conv.h"

#include <utility>
#include <vector>

#include "ops/register.h"
#include "ops/window.h"

namespace prospr::ops {
namespace {

class WindowOp : public OpKernel {
 public:
  explicit WindowOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_window(context, &window_));
  }

 protected:
  // The filters on an image of a shape, checked; the taps are an input, and the next one the
  // splits.
  absl::Status read_filters(OpKernelContext* context, const Shape& image, int taps_input,
                            SparseConvShape* shape, SparsePattern* pattern) const {
    const Tensor& taps = context->input(taps_input);
    const Tensor& splits = context->input(taps_input + 1);
    *pattern = {taps.flat<std::int32_t>().data(), splits.flat<std::int32_t>().data()};
    return status_of(
        check_filters(image, shape_of(taps), shape_of(splits), *pattern, window_, shape));
  }

  // Runs a kernel by the plan of the last call, if that was of this shape and pattern.
  template <typename Device, typename Map>
  absl::Status launch_planned(OpKernelContext* context, const SparseConvShape& shape,
                              const Map& map, const std::vector<Tensor>& pattern) {
    const LastPlan<cpu::Plan>::Numbers numbers{shape.blocks,   shape.height,  shape.width,
                                               shape.channels, shape.filters, shape.weights};
    cpu::Plan plan = last_plan_.find(pattern, numbers);
    const bool is_new = plan == nullptr;
    TF_RETURN_IF_ERROR(launch<Device>(context, shape, map, &plan));
    if (is_new) last_plan_.keep(pattern, numbers, std::move(plan));
    return absl::OkStatus();
  }

  Window window_;
  LastPlan<cpu::Plan> last_plan_;
};

absl::Status check(const char* name, const Tensor& tensor, const Shape& wanted) {
  return status_of(check_shape(name, shape_of(tensor), wanted));
}

}  // namespace

REGISTER_OP("Prospr>SparseConv")
    .Input("image: T")
    .Input("weights: T")
    .Input("bias: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Input("scale: M * T")
    .Input("residual: N * T")
    .Output("output: T")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME'}")
    .Attr("relu: bool")
    .Attr("ceiling: float")
    .Attr("M: int >= 0")
    .Attr("N: int >= 0")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      Window window;
      TF_RETURN_IF_ERROR(read_window(context, &window));
      ShapeHandle output;
      ShapeHandle bias;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 5, &output));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 1, &bias));
      TF_RETURN_IF_ERROR(replace_positions(context, window, &output));
      TF_RETURN_IF_ERROR(context->ReplaceDim(output, 3, context->Dim(bias, 0), &output));
      context->set_output(0, output);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Convolution by the weights that are left of its filters: the work is that of these weights.

output[b, r, s, f, n] = bias[f] + sum over k in [splits[f], splits[f + 1]) of weights[k] *
image[b, r * strides[0] - above + i * dilations[0], s * strides[1] - left + j * dilations[1], c, n],
where taps[k] = (i * kernel_width + j) * C + c; several weights of a filter may have one tap. The sum,
without the bias, is multiplied by scale[f], if it is given; the residual is added; and with `relu`
what is then negative is zero, and what is above the ceiling the ceiling. The result is the same bits for every number of threads.

image: [B, H, W, C, 16], blocks of samples, which lie along the last axis.
weights: [K].
bias: [F].
taps: [K], each in [0, kernel_height * kernel_width * C).
splits: [F + 1], rising from 0 to K.
scale: None, or one vector, [F].
residual: None, or one tensor in the shape of the output.
kernel_size: Height and width of the filters.
strides: By how much they move.
dilations: Distance of neighbouring elements of a filter.
padding: As in Conv2D.
output: [B, R, S, F, 16].
)doc");

template <typename Device, typename T>
class SparseConvOp : public WindowOp {
 public:
  explicit SparseConvOp(OpKernelConstruction* context) : WindowOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
    OP_REQUIRES_OK(context, context->GetAttr("ceiling", &ceiling_));
    OP_REQUIRES_OK(context, context->GetAttr("M", &scales_));
    OP_REQUIRES_OK(context, context->GetAttr("N", &residuals_));
    OP_REQUIRES(context, scales_ <= 1 && residuals_ <= 1,
                absl::InvalidArgumentError("there may be one scale and one residual"));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& image = context->input(0);
    const Tensor& weights = context->input(1);
    const Tensor& bias = context->input(2);
    SparseConvShape shape;
    SparseConv<T> map{{}, data_of<T>(image), data_of<T>(weights), data_of<T>(bias), nullptr};
    OP_REQUIRES_OK(context, read_filters(context, shape_of(image), 3, &shape, &map.pattern));
    OP_REQUIRES_OK(context, check("weights", weights, {shape.weights}));
    OP_REQUIRES_OK(context, check("bias", bias, {shape.filters}));
    if (scales_ > 0) {
      OP_REQUIRES_OK(context, check("scale", context->input(5), {shape.filters}));
      map.scale = data_of<T>(context->input(5));
    }
    if (residuals_ > 0) {
      const Tensor& residual = context->input(5 + scales_);
      OP_REQUIRES_OK(context, check("residual", residual, shape.output()));
      map.residual = data_of<T>(residual);
    }
    map.relu = relu_;
    map.ceiling = static_cast<T>(ceiling_);
    OP_REQUIRES_OK(context, allocate(context, 0, shape.output(), &map.output));
    OP_REQUIRES_OK(context, this->template launch_planned<Device>(
                                context, shape, map, {context->input(3), context->input(4)}));
  }

 private:
  bool relu_;
  float ceiling_;
  int scales_;
  int residuals_;
};
PROSPR_REGISTER(SparseConv, OnCpu, Floats);

REGISTER_OP("Prospr>SparseConvInputGradient")
    .Input("output_gradient: T")
    .Input("weights: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Input("order: int32")
    .Input("image_size: int32")
    .Output("image_gradient: T")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME'}")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle image;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 5, &image));
      for (const int axis : {1, 2, 3}) {
        TF_RETURN_IF_ERROR(context->ReplaceDim(image, axis, context->UnknownDim(), &image));
      }
      context->set_output(0, image);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradient of SparseConv by its image: a gather by the weights of each channel.

image_gradient[b, y, x, c, n] is the sum over the entries e in [splits[c], splits[c + 1]) of
weights[order[e]] * output_gradient[b, r, s, f, n] at the position r, s at which the element i, j of
filter f lies on y, x, if there is one, where taps[e] = (i * kernel_width + j) * F + f. The result is
the same bits for every number of threads.

output_gradient: [B, R, S, F, 16].
weights: [K].
taps: [K], each in [0, kernel_height * kernel_width * F).
splits: [C + 1], rising from 0 to K.
order: [K], each in [0, K).
image_size: [2], H and W of the image.
kernel_size: Height and width of the filters.
strides: By how much they move.
dilations: Distance of neighbouring elements of a filter.
padding: As in Conv2D.
image_gradient: [B, H, W, C, 16].
)doc");

template <typename Device, typename T>
class SparseConvInputGradientOp : public WindowOp {
 public:
  using WindowOp::WindowOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& gradient = context->input(0);
    const Tensor& weights = context->input(1);
    const Tensor& taps = context->input(2);
    const Tensor& splits = context->input(3);
    const Tensor& order = context->input(4);
    const Tensor& size = context->input(5);
    OP_REQUIRES_OK(context, status_of(check_axes("output_gradient", shape_of(gradient), 5)));
    OP_REQUIRES_OK(context, status_of(check_not_empty("splits", shape_of(splits))));
    OP_REQUIRES_OK(context, status_of(check_axes("splits", shape_of(splits), 1)));
    OP_REQUIRES_OK(context, check("image_size", size, {2}));
    const auto sizes = size.flat<std::int32_t>();
    SparseConvInputGradient<T> map{
        {taps.flat<std::int32_t>().data(), splits.flat<std::int32_t>().data(),
         order.flat<std::int32_t>().data()},
        data_of<T>(gradient),
        data_of<T>(weights),
        nullptr};
    SparseConvShape shape;
    const Shape image{gradient.dim_size(0), sizes(0), sizes(1), splits.dim_size(0) - 1,
                      kBlockLanes};
    OP_REQUIRES_OK(context, status_of(check_transposed(image, gradient.dim_size(3), shape_of(taps),
                                                       shape_of(splits), shape_of(order),
                                                       map.pattern, window_, &shape)));
    OP_REQUIRES_OK(context, check("output_gradient", gradient, shape.output()));
    OP_REQUIRES_OK(context, check("weights", weights, {shape.weights}));
    OP_REQUIRES_OK(context, allocate(context, 0, image, &map.image_gradient));
    OP_REQUIRES_OK(
        context, this->template launch_planned<Device>(context, shape, map, {taps, splits, order}));
  }
};
PROSPR_REGISTER(SparseConvInputGradient, OnCpu, Floats);

REGISTER_OP("Prospr>SparseConvFilterGradient")
    .Input("image: T")
    .Input("output_gradient: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Output("weights_gradient: T")
    .Output("bias_gradient: T")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME'}")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle output;
      ShapeHandle taps;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 5, &output));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 1, &taps));
      context->set_output(0, taps);
      context->set_output(1, context->Vector(context->Dim(output, 3)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradients of SparseConv by its weights and its bias.

weights_gradient[k], of a weight of filter f, is the sum over all positions and samples of
output_gradient at filter f times what the weight reads of the image; bias_gradient[f] is the sum of
output_gradient at filter f. The result is the same bits for every number of threads.

image: [B, H, W, C, 16].
output_gradient: [B, R, S, F, 16].
taps: [K], each in [0, kernel_height * kernel_width * C).
splits: [F + 1], rising from 0 to K.
kernel_size: Height and width of the filters.
strides: By how much they move.
dilations: Distance of neighbouring elements of a filter.
padding: As in Conv2D.
weights_gradient: [K].
bias_gradient: [F].
)doc");

template <typename Device, typename T>
class SparseConvFilterGradientOp : public WindowOp {
 public:
  using WindowOp::WindowOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& image = context->input(0);
    const Tensor& output_gradient = context->input(1);
    SparseConvShape shape;
    SparseConvFilterGradient<T> map{
        {}, data_of<T>(image), data_of<T>(output_gradient), nullptr, nullptr};
    OP_REQUIRES_OK(context, read_filters(context, shape_of(image), 2, &shape, &map.pattern));
    OP_REQUIRES_OK(context, check("output_gradient", output_gradient, shape.output()));
    OP_REQUIRES_OK(context, allocate(context, 0, {shape.weights}, &map.weights_gradient));
    OP_REQUIRES_OK(context, allocate(context, 1, {shape.filters}, &map.bias_gradient));
    OP_REQUIRES_OK(context, this->template launch_planned<Device>(
                                context, shape, map, {context->input(2), context->input(3)}));
  }
};
PROSPR_REGISTER(SparseConvFilterGradient, OnCpu, Floats);

REGISTER_OP("Prospr>ToBlocks")
    .Input("samples: T")
    .Output("blocks: T")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle samples;
      TF_RETURN_IF_ERROR(context->WithRankAtLeast(context->input(0), 1, &samples));
      DimensionHandle blocks = context->UnknownDim();
      if (context->ValueKnown(context->Dim(samples, 0))) {
        blocks = context->MakeDim(blocks_of(context->Value(context->Dim(samples, 0))));
      }
      TF_RETURN_IF_ERROR(context->ReplaceDim(samples, 0, blocks, &samples));
      ShapeHandle result;
      TF_RETURN_IF_ERROR(context->Concatenate(samples, context->MakeShape({kBlockLanes}), &result));
      context->set_output(0, result);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Blocks of 16 samples, which lie along the last axis.

samples: [N, ...].
blocks: [ceil(N / 16), ..., 16], zero behind the last sample.
)doc");

template <typename Device, typename T>
class ToBlocksOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& samples = context->input(0);
    Shape shape = shape_of(samples);
    OP_REQUIRES(context, !shape.empty(),
                absl::InvalidArgumentError("samples must have an axis of samples"));
    ToBlocks<T> map{shape[0], product(shape.begin() + 1, shape.end()), data_of<T>(samples),
                    nullptr};
    shape[0] = blocks_of(shape[0]);
    shape.push_back(kBlockLanes);
    OP_REQUIRES_OK(context, allocate(context, 0, shape, &map.to));
    OP_REQUIRES_OK(context, launch<Device>(context, map));
  }
};
PROSPR_REGISTER(ToBlocks, OnCpu, Floats);

REGISTER_OP("Prospr>FromBlocks")
    .Input("blocks: T")
    .Input("samples: int32")
    .Output("values: T")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle blocks;
      TF_RETURN_IF_ERROR(context->WithRankAtLeast(context->input(0), 2, &blocks));
      TF_RETURN_IF_ERROR(context->Subshape(blocks, 0, -1, &blocks));
      TF_RETURN_IF_ERROR(context->ReplaceDim(blocks, 0, context->UnknownDim(), &blocks));
      context->set_output(0, blocks);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The samples of blocks.

blocks: [ceil(samples / 16), ..., 16].
samples: Number of samples N, a scalar.
values: [N, ...].
)doc");

template <typename Device, typename T>
class FromBlocksOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& blocks = context->input(0);
    std::int32_t samples;
    OP_REQUIRES_OK(context, read_scalar(context, "samples", &samples));
    Shape shape = shape_of(blocks);
    if (samples < 0 || shape.size() < 2 || shape.back() != kBlockLanes ||
        shape[0] != blocks_of(samples)) {
      OP_REQUIRES_OK(context,
                     status_of(must_be("blocks", shape,
                                       "[" + std::to_string(blocks_of(std::max(samples, 0))) +
                                           ",...," + std::to_string(kBlockLanes) + "] for " +
                                           std::to_string(samples) + " samples")));
      return;
    }
    shape[0] = samples;
    shape.pop_back();
    FromBlocks<T> map{samples, product(shape.begin() + 1, shape.end()), data_of<T>(blocks),
                      nullptr};
    OP_REQUIRES_OK(context, allocate(context, 0, shape, &map.to));
    OP_REQUIRES_OK(context, launch<Device>(context, map));
  }
};
PROSPR_REGISTER(FromBlocks, OnCpu, Floats, "samples");

}  // namespace prospr::ops
