/* seerattn_vulkan.h: libseerattn on the caller's Vulkan device. C99; Vulkan's headers are not needed: dispatchable handles
 * are void *, others uint64_t (a cast from VkBuffer to uint64_t on 64-bit targets), structs of Vulkan's const void *.
 *
 * A context of seer_vulkan_context_create computes on the caller's VkDevice and queue. Every call of seerattn.h works
 * with it; besides, its tensors may be VkBuffers of that device (SEER_MEM_VULKAN):
 *   vk_buffer   made with VK_BUFFER_USAGE_STORAGE_BUFFER_BIT, bound to memory, and of VK_SHARING_MODE_CONCURRENT or owned
 *               by the context's queue family while a call uses it. A buffer cannot be asked for any of this: a wrong one
 *               is the validation layers' to find.
 *   offset      of the first element from the buffer's start, a multiple of 16
 *   size        bytes of the buffer that may be used, from its start: at most its size. The tensor's last element, rounded
 *               up to 4 bytes, must lie within, else SEER_ERROR_OUT_OF_BOUNDS. What lies between tensors is not written,
 *               but in the last 4 bytes of one, which hence may be shared with nobody who writes at the same time.
 * Device addresses (VkDeviceAddress) are not taken: kernels bind storage buffers.
 *
 * The rules of seerattn.h hold. Where Vulkan asks for external synchronization of the queue, the library calls lock_queue
 * and unlock_queue; it never touches another queue, nor waits for the device or the queue to be idle. */
#ifndef SEERATTN_VULKAN_H
#define SEERATTN_VULKAN_H

#include <seerattn/seerattn.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- The caller's device --------------------------------------------------------------------------------------------- */

typedef struct seer_vulkan_import { /* growable */
  uint32_t struct_size;
  uint32_t api_version;          /* VK_MAKE_API_VERSION: the least of the application's and the device's; 1.1 or more */
  void *get_instance_proc_addr;  /* PFN_vkGetInstanceProcAddr */
  void *instance;
  void *physical_device;
  void *device;
  void *queue;                   /* of the family below. NULL = found by family, index and flags */
  uint32_t queue_family;         /* with VK_QUEUE_COMPUTE_BIT */
  uint32_t queue_index;
  uint32_t queue_flags;          /* VkDeviceQueueCreateFlags that the queue was made with */
  uint32_t extension_count;
  const char *const *extensions; /* the device extensions that were enabled */
  const void *features;          /* the features that were enabled: VkPhysicalDeviceFeatures2 with its pNext chain, the
                                    structs of Vulkan's versions or of extensions. NULL = none. What is not told, a device
                                    cannot be asked: it is not used */
  void(SEER_CALL *lock_queue)(void *user);   /* both or none. Required if anybody else submits to the queue */
  void(SEER_CALL *unlock_queue)(void *user);
  void *user;
  seer_release_fn release;           /* the library has let go of the device: from now on it may be destroyed. May come on
                                        any thread, also before seer_context_release returns. May be NULL; not called if
                                        seer_vulkan_context_create fails */
  const void *allocation_callbacks;  /* VkAllocationCallbacks, copied; NULL = none. Live until release */
  uint64_t pipeline_cache;           /* VkPipelineCache, lives until release; 0 = the library's own, kept on disk */
} seer_vulkan_import;

/* Before vkCreateDevice: what to enable for the best kernels. Sets, in the structs of `features`
 * (VkPhysicalDeviceFeatures2 and its pNext chain, or NULL), the features that the library can use and the device has,
 * and leaves all others: hang there what is to be enabled of
 *   VkPhysicalDeviceVulkan11Features  or  VkPhysicalDevice16BitStorageFeatures
 *   VkPhysicalDeviceVulkan12Features      VkPhysicalDevice{ShaderFloat16Int8,VulkanMemoryModel,TimelineSemaphore}Features
 *   VkPhysicalDeviceVulkan13Features      VkPhysicalDeviceSubgroupSizeControlFeatures
 *   VkPhysicalDeviceCooperativeMatrixFeaturesKHR, ...CooperativeMatrix2FeaturesNV, ...ShaderBfloat16FeaturesKHR
 * extensions gets up to *extension_count names (static strings) of device extensions that the device offers, *extension_count how many
 * there are; extensions NULL: only counts. All are recommendations, nothing beyond Vulkan 1.1 is required, but for
 * VK_KHR_push_descriptor (seer_vulkan_record) and timelineSemaphore (seer_vulkan_wait_semaphores).
 * SEER_ERROR_UNSUPPORTED names the limit that keeps the library from using the device at all. */
SEER_API seer_status SEER_CALL seer_vulkan_recommend(void *get_instance_proc_addr, void *instance, void *physical_device, uint32_t api_version, void *features, const char **extensions, uint32_t *extension_count);

/* params NULL = defaults; backend AUTO or VULKAN, device 0. Contexts with equal imports share their memory: models and
 * buffers of one serve the others. seer_device_info.ordinal is -1. A limit that is too small, or a feature or extension
 * that is told but that the device does not offer, or a feature without its extension: SEER_ERROR_UNSUPPORTED naming it.
 * Before the device is destroyed everything made from the context must be released, and `release` have been called.
 * [BLOCKS]: kernels are tried on the device the first time. */
SEER_API seer_status SEER_CALL seer_vulkan_context_create(const seer_context_params *params, const seer_vulkan_import *import, seer_context **out);

/* ---- Timeline semaphores ----------------------------------------------------------------------------------------------- */

/* A timeline semaphore of the context's device and a value of it, 16 bytes, frozen. It lives until the work that waits
 * for it or signals it is complete. */
typedef struct seer_vulkan_semaphore {
  uint64_t semaphore; /* VkSemaphore of VK_SEMAPHORE_TYPE_TIMELINE */
  uint64_t value;
} seer_vulkan_semaphore;

/* Calls to the context from now on do their work on the device after all of these have been reached; enqueued like any
 * call. If the work that signals one goes to the same queue, it must have been submitted before. */
SEER_API seer_status SEER_CALL seer_vulkan_wait_semaphores(seer_context *ctx, const seer_vulkan_semaphore *list, uint32_t count);
/* Signals them, on the device, once all calls to the context so far are over, however they went: cancelled and failed work
 * signals, too, so that nobody waits for ever. The ticket (may be NULL) is complete when the signals are submitted. */
SEER_API seer_status SEER_CALL seer_vulkan_signal_semaphores(seer_context *ctx, const seer_vulkan_semaphore *list, uint32_t count, seer_ticket *ticket);

#ifdef __cplusplus
}
#endif
#endif
