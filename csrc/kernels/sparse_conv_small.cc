#include "kernels/sparse_conv_small.h"

namespace prospr {

std::string check_small_filters(const Shape& image, const Shape& taps, const Shape& splits,
                                const SparsePattern& pattern, const Window& window,
                                SparseConvShape* shape) {
  const std::string wrong = check_axes("image", image, 4);
  if (!wrong.empty()) return wrong;
  return check_filters({image[0], image[1], image[2], image[3], kBlockLanes}, taps, splits, pattern,
                       window, shape);
}

Shape small_output(const SparseConvShape& shape) {
  return {shape.blocks, shape.rows(), shape.columns(), shape.filters};
}

}  // namespace prospr
