// What select.comp, select_subgroup.comp and select_coopmat.comp are told alike.
#pragma once
#include "../../shaders/args.h"
#include "../stages.h"
#include "dispatch.h"
#include "pieces.h"

namespace seer::vulkan {

// Words of the mask from the first to the last of some block rows.
inline int64_t select_mask_words(const SelectArgs &args, const Piece &p) {
  return span_elements(p, args.mask.stride_row, args.mask.stride_head, args.mask_row_words);
}

// The mask of some block rows of a sequence, and the statistics.
struct SelectOut {
  Window mask, stats;
};
inline SelectOut select_out(const Recorder &recorder, const SelectArgs &args, const Sequence &s, const Piece &p) {
  return {.mask = recorder.window(args.mask.row(s.batch, p.head, s.mask_row + p.row),
                                  uint64_t(select_mask_words(args, p) * 4)),
          .stats = recorder.window(args.stats, args.stats ? sizeof(SelectStats) : 0)};
}

// Everything but where the logits come from and what is theirs: SelectPush or SelectSplitPush.
template <class Push>
Push select_push(const SelectArgs &args, const Sequence &s, const Piece &p, const SelectOut &out) {
  uint64_t causal = 0;
  for (int64_t r = p.row; r < p.row + p.rows; r++)
    causal += uint64_t(causal_blocks(r, s.q_len, s.offset(), args.block) * p.heads);
  Push push{};
  push.heads = uint32_t(p.heads);
  push.mask_skip = out.mask.skip;
  push.mask_head = kernel_stride(args.mask.stride_head, p.heads);
  push.mask_row = kernel_stride(args.mask.stride_row, p.rows);
  push.stats_skip = out.stats.skip;
  push.row = uint32_t(p.row);
  push.rows = uint32_t(p.rows);
  push.words = uint32_t(args.mask_row_words);
  push.block = uint32_t(args.block);
  push.q_len = uint32_t(s.q_len);
  push.offset = uint32_t(s.offset());
  push.flags = (args.rule.keep_first ? kSelectKeepFirst : 0) | (args.rule.keep_diagonal ? kSelectKeepDiagonal : 0) |
               (args.stats ? kSelectCount : 0);
  push.causal_low = uint32_t(causal);
  push.causal_high = uint32_t(causal >> 32);
  push.threshold = float(args.rule.threshold);
  return push;
}

}  // namespace seer::vulkan
