// What the growable structs measured in the first version: the least that a caller may pass. These numbers never
// change, whatever is appended: the old client of tests/abi passes exactly these.
#pragma once
#include <seerattn/seerattn_vulkan.h>

namespace seer::capi {

template <class T>
inline constexpr uint32_t kFirstSize = 0;

template <>
inline constexpr uint32_t kFirstSize<seer_device_info> = 560;
template <>
inline constexpr uint32_t kFirstSize<seer_allocator> = 56;
template <>
inline constexpr uint32_t kFirstSize<seer_context_params> = 72;
template <>
inline constexpr uint32_t kFirstSize<seer_load_params> = 56;
template <>
inline constexpr uint32_t kFirstSize<seer_gate_config> = 184;
template <>
inline constexpr uint32_t kFirstSize<seer_gate_weights> = 264;
template <>
inline constexpr uint32_t kFirstSize<seer_gate_cache_params> = 16;
template <>
inline constexpr uint32_t kFirstSize<seer_prefill_desc> = 1040;
template <>
inline constexpr uint32_t kFirstSize<seer_gate_desc> = 648;
template <>
inline constexpr uint32_t kFirstSize<seer_select_desc> = 360;
template <>
inline constexpr uint32_t kFirstSize<seer_attention_desc> = 864;
template <>
inline constexpr uint32_t kFirstSize<seer_submit> = 40;
template <>
inline constexpr uint32_t kFirstSize<seer_stats> = 64;
template <>
inline constexpr uint32_t kFirstSize<seer_vulkan_import> = 128;
template <>
inline constexpr uint32_t kFirstSize<seer_vulkan_plan_params> = 16;
template <>
inline constexpr uint32_t kFirstSize<seer_vulkan_plan_info> = 40;
template <>
inline constexpr uint32_t kFirstSize<seer_vulkan_recording> = 976;
template <>
inline constexpr uint32_t kFirstSize<seer_vulkan_external> = 32;
template <>
inline constexpr uint32_t kFirstSize<seer_vulkan_host_memory> = 40;

}  // namespace seer::capi
