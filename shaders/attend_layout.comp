#version 460
// What element of a cooperative matrix a lane holds is the driver's secret; this finds it out. The elements of an
// accumulator and of an A matrix (f16, or bf16 where BFLOAT16 is defined) are numbered, row by row, and every lane says
// which numbers it holds: of the accumulator to numbers[(2 * e) * SIZE + lane], of A to numbers[(2 * e + 1) * SIZE +
// lane], for its element e; ~0 where it holds none. One subgroup, M = N = K or not, at most 256 elements.
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#ifdef BFLOAT16
#extension GL_EXT_bfloat16 : require
#define T bfloat16_t
#else
#define T float16_t
#endif
#pragma use_vulkan_memory_model

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint SIZE = 32;
layout(constant_id = 1) const uint M = 16;
layout(constant_id = 2) const uint N = 16;
layout(constant_id = 3) const uint K = 16;
layout(constant_id = 4) const uint LENGTH = 8;  // elements that are asked for
layout(push_constant, std430) uniform Push { uint first, count; } p;
layout(std430, binding = 0) writeonly buffer Numbers { uint numbers[]; };

// By words, as the kernels load them: two channels of 16 bits.
shared uvec4 tile_a[M * K / 8u];
shared float tile_c[M * N];

uint narrow_number(uint x) {
#ifdef BFLOAT16
  return floatBitsToUint(float(x)) >> 16;
#else
  return packHalf2x16(vec2(float(x), 0.0));
#endif
}

uint word(uint x) { return narrow_number(x) | narrow_number(x + 1u) << 16; }

void main() {
  if (gl_WorkGroupID.x >= p.count) return;
  const uint lane = gl_SubgroupInvocationID;
  for (uint x = lane; x < M * N; x += SIZE) tile_c[x] = float(x);
  for (uint x = lane; x < M * K / 8u; x += SIZE)
    tile_a[x] = uvec4(word(8u * x), word(8u * x + 2u), word(8u * x + 4u), word(8u * x + 6u));
  barrier();
  coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> c;
  coopMatLoad(c, tile_c, 0u, N, gl_CooperativeMatrixLayoutRowMajor);
  coopmat<T, gl_ScopeSubgroup, M, K, gl_MatrixUseA> a;
  coopMatLoad(a, tile_a, 0u, K / 8u, gl_CooperativeMatrixLayoutRowMajor);
  for (uint e = 0; e < 2u * LENGTH; e++) numbers[e * SIZE + lane] = ~0u;
  [[unroll]] for (uint e = 0; e < c.length(); e++)
    if (e < LENGTH) numbers[2u * e * SIZE + lane] = uint(c[e]);
  [[unroll]] for (uint e = 0; e < a.length(); e++)
    if (e < LENGTH) numbers[(2u * e + 1u) * SIZE + lane] = uint(float(a[e]));
}
