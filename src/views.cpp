#include "views.h"

namespace seer {

TokenView token_view(const Tensor &t) {
  const int d = t.ndim - 3;  // index of the token dimension
  return {.data = t.data,
          .handle = t.handle,
          .offset = t.offset,
          .dtype = t.dtype,
          .heads = t.shape[d + 1],
          .dim = t.shape[d + 2],
          .stride_batch = d ? t.stride[0] : 0,
          .stride_token = t.stride[d],
          .stride_head = t.stride[d + 1]};
}

FloatView lse_view(const Tensor &t) {
  const int d = t.ndim - 2;
  return {.data = static_cast<float *>(t.data),
          .handle = t.handle,
          .offset = t.offset,
          .stride_batch = d ? t.stride[0] : 0,
          .stride_head = t.stride[d],
          .stride_token = 1};
}

FloatView scores_view(const Tensor &t) {
  const int d = t.ndim - 3;
  return {.data = static_cast<float *>(t.data),
          .handle = t.handle,
          .offset = t.offset,
          .stride_batch = d ? t.stride[0] : 0,
          .stride_head = t.stride[d],
          .stride_token = t.stride[d + 1]};
}

void set_mask(const Tensor &t, BlockMaskView &bits, ByteMaskView &bytes) {
  if (!t.present()) return;
  const int d = t.ndim - 3;
  const int64_t batch = d ? t.stride[0] : 0;
  if (t.dtype == DType::b32)
    bits = {.words = static_cast<uint32_t *>(t.data),
            .handle = t.handle,
            .offset = t.offset,
            .stride_batch = batch,
            .stride_head = t.stride[d],
            .stride_row = t.stride[d + 1]};
  else
    bytes = {.bytes = static_cast<uint8_t *>(t.data),
             .stride_batch = batch,
             .stride_head = t.stride[d],
             .stride_row = t.stride[d + 1],
             .cols = t.shape[d + 2]};
}

TokenView some_heads(TokenView view, int64_t first, int64_t count) {
  if (view.data) view.data = static_cast<char *>(view.data) + first * view.stride_head * element_size(view.dtype);
  view.heads = count;
  return view;
}

GateMatrix some_heads(GateMatrix matrix, int64_t first, int64_t count) {
  if (!matrix.present()) return matrix;
  matrix.data = static_cast<const char *>(matrix.data) + matrix.bytes() / matrix.heads * first;
  matrix.heads = count;
  return matrix;
}

FloatView some_heads(FloatView view, int64_t first) {
  if (view.data) view.data += first * view.stride_head;
  return view;
}

BlockMaskView some_heads(BlockMaskView view, int64_t first) {
  if (view.words) view.words += first * view.stride_head;
  return view;
}

}  // namespace seer
