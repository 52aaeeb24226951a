// Whether subgroups are as large as the driver says, and their operations right. Each invocation that sees otherwise
// counts itself.
#version 450
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
layout(local_size_x = 128) in;

layout(push_constant) uniform Push { uint first, count, size; } push;

layout(binding = 0) buffer Wrong { uint wrong; };

void main() {
  const uint lanes = subgroupAdd(1u), counted = subgroupBallotBitCount(subgroupBallot(true));
  const uint neighbour = subgroupShuffleXor(gl_SubgroupInvocationID, 1u);
  const float total = subgroupAdd(float(gl_SubgroupInvocationID));
  const bool right = gl_SubgroupSize == push.size && lanes == push.size && counted == push.size &&
                     neighbour == (gl_SubgroupInvocationID ^ 1u) && total == 0.5 * float(push.size * (push.size - 1u));
  if (!right) atomicAdd(wrong, 1);
}
