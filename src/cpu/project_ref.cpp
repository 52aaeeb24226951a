// project, reference.
#include "kernels.h"
#include "ref.h"

namespace seer::cpu {

void project_ref(Workers &workers, const ProjectArgs &args) {
  for (const Sequence &s : args.sequences) {
    const bool q = args.side == Side::q;
    const int64_t blocks = q ? s.q_blocks(args.block) : s.k_blocks(args.block) - s.cached_blocks;
    const int64_t pooled_row = q ? s.q_row : s.k_pool_row;
    const int64_t gate_row = q ? s.q_row : s.k_row + s.cached_blocks;
    const int64_t position = q ? s.offset() / args.block : s.cached_blocks;  // in blocks

    for (int64_t b = 0; b < blocks; ++b) {
      workers.exec.check_cancelled();
      for (int64_t h = 0; h < args.gate_heads; ++h) {
        const int64_t pooled_head = h * args.pooled_heads / args.gate_heads;
        const float *x = args.pooled + ((pooled_row + b) * args.pooled_heads + pooled_head) * args.in;
        float *y = args.gate + ((gate_row + b) * args.gate_heads + h) * args.out;
        if (args.weight.present()) {
          dispatch_float(args.weight.dtype, [&](auto tag) {
            const auto *w = static_cast<const decltype(tag) *>(args.weight.data) + h * args.in * args.out;
            std::fill_n(y, args.out, 0.0f);
            for (int64_t i = 0; i < args.in; ++i)
              for (int64_t o = 0; o < args.out; ++o) y[o] += x[i] * to_f32(w[i * args.out + o]);
          });
        } else {
          std::copy_n(x, args.out, y);
        }
        rotate(y, args.rope, position + b);
      }
      workers.exec.step(1);
    }
  }
}

}  // namespace seer::cpu
