// VK_KHR_external_memory_win32, which vulkan_core.h leaves to a header that wants windows.h first. Values are those of
// the Vulkan registry; a HANDLE is a void *.
#pragma once
#include <vulkan/vulkan_core.h>

namespace seer::vulkan::ext {

constexpr const char *kExternalMemoryWin32 = "VK_KHR_external_memory_win32";

struct ImportMemoryWin32HandleInfo {
  VkStructureType sType = VkStructureType(1000073000);
  const void *pNext = nullptr;
  VkExternalMemoryHandleTypeFlagBits handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT;
  void *handle = nullptr;
  const wchar_t *name = nullptr;
};
struct MemoryGetWin32HandleInfo {
  VkStructureType sType = VkStructureType(1000073003);
  const void *pNext = nullptr;
  VkDeviceMemory memory = VK_NULL_HANDLE;
  VkExternalMemoryHandleTypeFlagBits handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT;
};

}  // namespace seer::vulkan::ext

using PFN_vkGetMemoryWin32HandleKHR = VkResult(VKAPI_PTR *)(VkDevice,
                                                            const seer::vulkan::ext::MemoryGetWin32HandleInfo *,
                                                            void **handle);
