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
 * timelineSemaphore (seer_vulkan_wait_semaphores), VK_KHR_external_memory_fd or _win32 (seer_vulkan_buffer_export) and
 * VK_EXT_external_memory_host (seer_vulkan_buffer_import_host).
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

/* ---- Shared memory ------------------------------------------------------------------------------------------------------ */

/* Bytes of a VkBuffer, 24 bytes, frozen. All-zero = absent. */
typedef struct seer_vulkan_range {
  uint64_t buffer;
  uint64_t offset;
  uint64_t size;
} seer_vulkan_range;

/* The VkBuffer behind a seer_buffer of an imported device, for as long as the seer_buffer lives. */
SEER_API seer_status SEER_CALL seer_vulkan_buffer_get(const seer_buffer *buffer, seer_vulkan_range *range);

/* Device memory by file descriptor, VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT, on Windows by handle, ..._OPAQUE_WIN32_BIT:
 * what cudaImportExternalMemory, another VkDevice or another process on the same physical device and driver takes. Needs
 * VK_KHR_external_memory_fd (VK_KHR_external_memory_win32), which a context's own device enables by itself. */
typedef struct seer_vulkan_external { /* growable */
  uint32_t struct_size;
  int32_t fd;               /* not on Windows */
  uint64_t size;            /* of the buffer, from the start of the memory */
  uint64_t allocation_size; /* of the memory */
  uint32_t memory_type;     /* its index; import: that of the exporter */
  uint32_t reserved;
  void *handle;             /* Windows: a HANDLE; elsewhere NULL */
} seer_vulkan_external;
/* Makes a buffer and fills *external; fd, or handle, is the caller's to close. The contents are complete for others when the ticket
 * of a call that writes them is; calls do not wait for others: the caller does, before it makes them. */
SEER_API seer_status SEER_CALL seer_vulkan_buffer_export(seer_context *ctx, uint64_t size, seer_vulkan_external *external, seer_buffer **out);
/* A buffer of somebody else's memory. The fd belongs to the driver if this succeeds, else to the caller as before; a
 * handle stays the caller's, to be closed at any time after. */
SEER_API seer_status SEER_CALL seer_vulkan_buffer_import(seer_context *ctx, const seer_vulkan_external *external, seer_buffer **out);

/* Host memory that the device uses where it lies (VK_EXT_external_memory_host, which a context's own device enables by
 * itself): on a GPU with memory of its own through the bus, at the bus's speed, each time that a kernel reads it. */
typedef struct seer_vulkan_host_memory { /* growable */
  uint32_t struct_size;
  uint32_t flags;          /* 0 */
  void *data;              /* a multiple of 16. The pages that it lies in are the caller's, and writable */
  uint64_t size;           /* a multiple of 4 */
  seer_release_fn release; /* the library and the device have let go of the memory: from now on it may be freed. May come
                              on any thread, also before seer_buffer_release returns. May be NULL; not called if
                              seer_vulkan_buffer_import_host fails */
  void *user;
} seer_vulkan_host_memory;
/* A buffer of it. The memory stays the caller's; it must be there until `release`, and while a call uses the buffer nobody
 * else may write to it, nor read what the call writes. What the host writes before a call, and what a call wrote once its
 * ticket is complete, the other side sees. SEER_ERROR_UNSUPPORTED says what keeps the device from it: the extension, an
 * alignment coarser than a page, or the driver, which may refuse memory of files or of other devices. Thread-safe. */
SEER_API seer_status SEER_CALL seer_vulkan_buffer_import_host(seer_context *ctx, const seer_vulkan_host_memory *host, seer_buffer **out);

/* ---- Recording into the caller's command buffers ------------------------------------------------------------------------ */

/* A call of certain sizes, prepared: kernels are compiled (on all processors), proven and kept, tables of RoPE are in
 * device memory. Thread-safe; recordings of one plan take turns, of several run side by side. It must live until the last
 * command buffer that it was recorded into has been executed for the last time. */
typedef struct seer_vulkan_plan seer_vulkan_plan;

typedef struct seer_vulkan_plan_params { /* growable */
  uint32_t struct_size;
  uint32_t flags;    /* 0 */
  double part_flops; /* floating-point operations of a part, roughly, where the call may be cut into several; 0 = one part.
                        A desktop's watchdog kills a submission that runs for seconds: give it what 50 ms hold */
} seer_vulkan_plan_params;

/* Of desc, everything counts but the tensors' memory: mem must be VULKAN or BUFFER, but vk_buffer, buffer, offset and size
 * may be anything, 0 included. desc.cache stands for its sizes: each recording names its own (see below). params NULL =
 * defaults. Plans can be made on contexts without an imported device, too, to have kernels ready for ordinary calls.
 * [BLOCKS] */
SEER_API seer_status SEER_CALL seer_vulkan_plan_prefill(seer_context *ctx, const seer_model *model, const seer_prefill_desc *desc, const seer_vulkan_plan_params *params, seer_vulkan_plan **out);
SEER_API seer_status SEER_CALL seer_vulkan_plan_gate(seer_context *ctx, const seer_model *model, const seer_gate_desc *desc, const seer_vulkan_plan_params *params, seer_vulkan_plan **out);
SEER_API seer_status SEER_CALL seer_vulkan_plan_select(seer_context *ctx, const seer_select_desc *desc, const seer_vulkan_plan_params *params, seer_vulkan_plan **out);
SEER_API seer_status SEER_CALL seer_vulkan_plan_attention(seer_context *ctx, const seer_attention_desc *desc, const seer_vulkan_plan_params *params, seer_vulkan_plan **out);

typedef struct seer_vulkan_plan_info { /* growable */
  uint32_t struct_size;
  uint32_t part_count;          /* at least 1 */
  uint64_t workspace_bytes;
  uint64_t workspace_alignment; /* of its offset */
  double flops;                 /* of the whole call if it kept every block, roughly; of other stages, bytes moved count */
  uint32_t descriptor_sets;     /* what a recording takes of seer_vulkan_recording.descriptor_pool, all parts together: */
  uint32_t descriptors;         /* sets, and storage buffers in them. 0 with VK_KHR_push_descriptor: none is needed */
} seer_vulkan_plan_info;
SEER_API seer_status SEER_CALL seer_vulkan_plan_get(const seer_vulkan_plan *plan, seer_vulkan_plan_info *info);
SEER_API void SEER_CALL seer_vulkan_plan_retain(seer_vulkan_plan *plan);
SEER_API void SEER_CALL seer_vulkan_plan_release(seer_vulkan_plan *plan);

typedef struct seer_vulkan_recording { /* growable */
  uint32_t struct_size;
  int32_t layer;              /* prefill, gate: of the model, as in seer_prefill */
  void *command_buffer;       /* VkCommandBuffer in the recording state, outside a render pass, of a pool of the context's
                                 queue family (or of any that computes, if buffers are shared accordingly) */
  seer_tensor q;              /* tensors that the call has, of the plan's dtype, shape and strides; VULKAN or BUFFER */
  seer_tensor k;
  seer_tensor v;
  seer_tensor out;
  seer_tensor lse;
  seer_tensor scores;
  seer_tensor mask;
  seer_vulkan_range workspace; /* STORAGE_BUFFER, TRANSFER_DST and, with stats, TRANSFER_SRC usage; workspace_bytes or more.
                                  Contents are undefined before and after. One for each execution in flight */
  seer_vulkan_range stats;     /* out, optional: TRANSFER_DST usage, offset a multiple of 4, 24 bytes: u64 blocks_kept,
                                  blocks_causal, fallback_rows, as in seer_stats. Written by the last part */
  uint32_t first_part;         /* parts first_part .. first_part + part_count - 1 are recorded */
  uint32_t part_count;         /* 0 = all from first_part on */
  uint64_t descriptor_pool;    /* VkDescriptorPool that sets are allocated from, where the device has no push descriptors;
                                  reset or destroyed when the command buffer is, and by the caller. One thread at a time */
  seer_gate_cache *cache;      /* if the plan has one: of its context and model, with its sequences and max_tokens */
} seer_vulkan_recording;

/* Records the call. Nothing is allocated on the device, compiled, submitted or waited for, and no queue is locked; the
 * command buffer may be submitted any number of times. It clobbers the compute bind point: pipeline, descriptor set 0
 * and push constants.
 * Synchronization: the first command is a barrier for compute and transfer work before it in the queue, so its results are
 * seen; whatever else wrote the inputs (graphics, the host after submission, another queue) or still reads the outputs or
 * the workspace is the caller's to wait for, with dstStageMask COMPUTE_SHADER | TRANSFER. Behind the last command there is
 * no barrier: outputs are written by COMPUTE_SHADER (SHADER_WRITE), stats by TRANSFER (TRANSFER_WRITE).
 * Parts run in their order, in one queue or ordered by semaphores, with the same tensors and workspace. */
SEER_API seer_status SEER_CALL seer_vulkan_record(seer_vulkan_plan *plan, const seer_vulkan_recording *recording);

/* Chunked prefill by command buffers: a plan for each place of a chunk (S and L), made with a gate cache, serves all layers
 * and all caches of those sizes.
 * What a command buffer does is fixed when it is recorded, and nobody tells the library when it runs; so the lengths that
 * calls of seerattn.h go by do not count here, nor do they move. A recorded chunk takes the vectors of the blocks before
 * key L - S of its layer, in every sequence, from the cache and puts those of the blocks from there to L into it. All else
 * is as if the cache held just what lies before the chunk.
 *   Contents   What it takes must have been put there, by calls or command buffers, for the keys that the chunk passes.
 *              Nobody checks that: of vectors that were never written, or of other keys, come masks that mean nothing.
 *   Replay     To execute a chunk again does the same again. A new prompt starts with its first chunk, which takes nothing;
 *              seer_gate_cache_truncate is not needed and changes nothing here.
 *   Order      What uses the same layer of a cache is ordered as what uses the same buffer: executions in one queue are, by
 *              the barrier that each begins with; between queues it takes a semaphore. Calls of seerattn.h that use the
 *              cache are complete when their ticket is; before they start, let them seer_vulkan_wait_semaphores, or
 *              wait for a fence. Command buffers are of the context's queue family.
 *   Life       The cache lives until the last command buffer that it was recorded into has been executed for the last time.
 *   Threads    Recording takes no more of the cache than where its memory is: any number of threads may, beside its one
 *              caller of everything else.
 * A cache that is missing, or that the plan does not have: SEER_ERROR_INVALID_ARGUMENT; of another context or model:
 * SEER_ERROR_HANDLE; too small for the plan's call, or of other sizes than the plan's: SEER_ERROR_CACHE_STATE. */

/* Tells the cache of vectors that recorded chunks put there: those of the first `tokens` tokens (rounded down to blocks) of
 * this layer, as in seer_prefill, and sequence, -1 = all. Calls of seerattn.h from now on take them, as the last chunk of a
 * prompt might whose length no plan was made for; without it they pool again, rightly, what their lengths lack. Enqueued
 * like any call; only ever adds. More than max_tokens: SEER_ERROR_CACHE_STATE. */
SEER_API seer_status SEER_CALL seer_vulkan_gate_cache_extend(seer_gate_cache *cache, int32_t layer, int32_t sequence, int64_t tokens);

#ifdef __cplusplus
}
#endif
#endif
