// Push constants of the attend kernels, read by GLSL and by C++.
//
// A dispatch is one sequence, or a window of it that its bindings can see: queries [0, q_rows) of `heads` query heads
// against keys [key_begin, key_end) of their KV heads. A tensor's element (head h, token t of the window) is at
// base + h * head + t * token, in elements from the start of its binding; channels are adjacent.
#ifndef SEER_SHADERS_ATTEND_ARGS_H
#define SEER_SHADERS_ATTEND_ARGS_H

#ifdef __cplusplus
#include <cstdint>
namespace seer::vulkan {
using uint = uint32_t;
#define SEER_CONST constexpr
#else
#define SEER_CONST const
#endif

SEER_CONST uint kAttendMask = 1u;     // there is a mask; else dense
SEER_CONST uint kAttendLse = 2u;      // LSE is wanted
SEER_CONST uint kAttendResume = 4u;   // go on from `state`, which a window of earlier keys left
SEER_CONST uint kAttendSuspend = 8u;  // leave `state` for a window of later keys; else write the output
SEER_CONST uint kAttendRedo = 16u;    // a piece's item is a word of `state`, whose bits are items to compute

// Bindings: 0 q, 1 k, 2 v, 3 out, 4 lse, 5 mask, 6 state.
SEER_CONST uint kAttendBindings = 7u;

struct AttendPush {
  uint first, count;               // items of this piece (src/vulkan/dispatch.h)
  uint tiles, heads, group;        // items = tiles * heads, head fastest, last tile first; query heads per KV head
  uint q_rows;                     // queries of the window
  uint position;                   // of query 0 among the keys of the sequence; it sees keys 0 .. position
  uint key_begin, key_end;         // key_begin is a multiple of the block and the first key that k and v hold
  uint q_base, q_token, q_head;    // elements
  uint k_base, k_token, k_head;
  uint v_base, v_token, v_head;
  uint out_base, out_token, out_head;
  uint lse_base, lse_token, lse_head;
  uint mask_base, mask_row, mask_head;  // words; row 0 is that of query 0
  uint state_base;                      // words; of attend_coopmat the bits of items to redo
  float scale_log2;                     // scale * log2(e)
  uint flags;
};

#ifdef __cplusplus
#undef SEER_CONST
static_assert(sizeof(AttendPush) <= 128);  // what every device has
}  // namespace seer::vulkan
#endif
#endif
