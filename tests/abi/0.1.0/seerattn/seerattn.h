/* seerattn.h: the C API of libseerattn. C99, 64-bit targets, no other header than the two below.
 *
 * SeerAttention (arXiv 2410.13276): small learned gates predict which blocks of the attention matrix matter, and a
 * block-sparse attention computes only those. Five stages, one name everywhere: pool, project, score, select, attend.
 *
 * RULES that hold for every call, said once:
 *  1. Growable structs start with struct_size; SEER_INIT(T) sets it and zeroes the rest. All-zero is always the
 *     documented default. Reserved fields must be 0. Frozen structs carry no size and never change.
 *  2. Input structs, and what they point to, are read only during the call. EXCEPTIONS, which must live until the
 *     ticket of an asynchronous call is done: the memory of tensors, seer_cancel objects and callbacks' user data.
 *  3. Handles are reference counted: create gives one reference, retain adds one, release drops one. A child keeps its
 *     parents alive, so release in any order; releasing NULL does nothing.
 *  4. A call that fails changes nothing: out-parameters that are handles become NULL, others keep their value, no work
 *     was enqueued. The status says what kind of error it was, seer_last_error() which argument and which value.
 *  5. No call throws, aborts, exits, longjmps or prints. Only calls marked [BLOCKS] wait for anything.
 *  6. Strings are UTF-8, NUL-terminated. Sizes and offsets are in bytes, shapes and strides in elements.
 *  7. Callbacks may run on any thread, several at once. They must return normally. Inside them only seer_cancel_trigger,
 *     retain and release calls, seer_version, seer_status_name and seer_last_error work; anything else returns
 *     SEER_ERROR_BUSY.
 *  8. After fork() the child may only release what it inherited (nothing is freed); other calls with it return
 *     SEER_ERROR_DEVICE_LOST. It may create contexts of its own.
 *
 * EXPERIMENTAL: until three backends pass the golden cases, structs and functions may still change between versions. */
#ifndef SEERATTN_H
#define SEERATTN_H

#include <stddef.h>
#include <stdint.h>

#if UINTPTR_MAX != UINT64_MAX
#error "seerattn supports 64-bit targets only"
#endif

#define SEER_VERSION_MAJOR 0
#define SEER_VERSION_MINOR 1
#define SEER_VERSION_PATCH 0
#define SEER_VERSION ((SEER_VERSION_MAJOR << 16) | (SEER_VERSION_MINOR << 8) | SEER_VERSION_PATCH)

#if defined(_WIN32)
#define SEER_CALL __cdecl
#if defined(SEER_BUILD)
#define SEER_API __declspec(dllexport)
#elif defined(SEER_STATIC)
#define SEER_API
#else
#define SEER_API __declspec(dllimport)
#endif
#else
#define SEER_CALL
#define SEER_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
template <class T> inline T seer_init_() {
  T t = T();
  t.struct_size = static_cast<uint32_t>(sizeof(T));
  return t;
}
#define SEER_INIT(T) (seer_init_<T>())
extern "C" {
#else
/* A compound literal: not for file-scope initialisers. */
#define SEER_INIT(T) ((T){.struct_size = (uint32_t)sizeof(T)})
#endif

/* ---- Handles ------------------------------------------------------------------------------------------------------ */

/* One device and one in-order queue. Thread-safe: calls from several threads run in order of arrival. */
typedef struct seer_context seer_context;
/* Gate weights, immutable. Thread-safe; usable with every context of the same device. */
typedef struct seer_model seer_model;
/* Device memory owned by the library. The handle is thread-safe; racing on the contents is the caller's affair. */
typedef struct seer_buffer seer_buffer;
/* Per-layer compressed K of the gates, for chunked prefill. One thread at a time. */
typedef struct seer_gate_cache seer_gate_cache;
/* A cancel flag: once triggered it stays so. Thread-safe; triggering is safe in callbacks and signal handlers. */
typedef struct seer_cancel seer_cancel;
/* The position of a call in its context's queue: a plain number, nothing to free. 0 means "already complete". */
typedef uint64_t seer_ticket;
#define SEER_TICKET_ALL UINT64_MAX /* everything submitted so far */

/* ---- Enumerations: int32_t, so their width is fixed; an unknown value is refused, never undefined behaviour --------- */

typedef int32_t seer_status;
enum {
  SEER_OK = 0,
  SEER_NOT_READY = 1, /* > 0: not an error */
  SEER_TIMEOUT = 2,
  SEER_ERROR_INVALID_ARGUMENT = -1,
  SEER_ERROR_STRUCT = -2, /* struct_size or a reserved field */
  SEER_ERROR_HANDLE = -3, /* freed, of another type, or of another device */
  SEER_ERROR_SHAPE = -4,
  SEER_ERROR_DTYPE = -5,
  SEER_ERROR_STRIDE = -6, /* strides, alignment, overlap */
  SEER_ERROR_MEMORY_KIND = -7,
  SEER_ERROR_OUT_OF_BOUNDS = -8, /* a view exceeds its memory, or 64-bit overflow */
  SEER_ERROR_UNSUPPORTED = -9,
  SEER_ERROR_OUT_OF_MEMORY = -10,
  SEER_ERROR_DEVICE_OUT_OF_MEMORY = -11,
  SEER_ERROR_DEVICE_LOST = -12, /* the context is dead */
  SEER_ERROR_CANCELLED = -13,
  SEER_ERROR_IO = -14,
  SEER_ERROR_FORMAT = -15,         /* malformed file */
  SEER_ERROR_UNSAFE_FILE = -16,    /* loading it would need code execution */
  SEER_ERROR_MODEL_MISMATCH = -17, /* weights and configuration, or tensors and model, do not fit */
  SEER_ERROR_CACHE_STATE = -18,    /* full, or positions not contiguous */
  SEER_ERROR_BUSY = -19,           /* called from a callback */
  SEER_ERROR_INTERNAL = -99
};

typedef int32_t seer_backend;
enum { SEER_BACKEND_AUTO = 0 /* the first that works: CUDA, Vulkan, CPU */, SEER_BACKEND_CUDA = 1, SEER_BACKEND_VULKAN = 2, SEER_BACKEND_CPU = 3 };

typedef int32_t seer_dtype;
enum {
  SEER_DTYPE_NONE = 0,
  SEER_F32 = 1,
  SEER_F16 = 2,
  SEER_BF16 = 3,
  SEER_I32 = 4,
  SEER_I64 = 5,
  SEER_U8 = 6,
  SEER_B32 = 7 /* 32 mask bits in a u32, least significant first: bit c of word w is key block 32 w + c */
};

typedef int32_t seer_mem;
enum { SEER_MEM_NONE = 0 /* tensor absent */, SEER_MEM_HOST = 1, SEER_MEM_CUDA = 2 /* device or managed */, SEER_MEM_VULKAN = 3 /* VkBuffer */, SEER_MEM_BUFFER = 4 /* seer_buffer */ };

typedef int32_t seer_select_method;
enum {
  SEER_SELECT_MODEL = 0,     /* as the model's config.json says */
  SEER_SELECT_THRESHOLD = 1, /* probability > threshold */
  SEER_SELECT_RATIO = 2,     /* upstream's nz_ratio: a share of the causal triangle */
  SEER_SELECT_BUDGET = 3,    /* a number of tokens per row */
  SEER_SELECT_ALL = 4        /* every causal block: dense attention through the sparse path */
};

typedef int32_t seer_rope_kind;
enum {
  SEER_ROPE_DEFAULT = 0, /* the model's in prefill and gate; none in attention */
  SEER_ROPE_NONE = 1,    /* q and k are used as they are */
  SEER_ROPE_THETA = 2,   /* plain RoPE of base `theta` */
  SEER_ROPE_INV_FREQ = 3 /* the caller's inverse frequencies: covers every scaling */
};

typedef int32_t seer_log_level;
enum { SEER_LOG_OFF = 0, SEER_LOG_ERROR = 1, SEER_LOG_WARN = 2, SEER_LOG_INFO = 3, SEER_LOG_DEBUG = 4 };

/* Poolings of a gate, concatenated on the channel axis always in this order. */
enum { SEER_POOL_MAX = 1, SEER_POOL_MIN = 2, SEER_POOL_AVG = 4 };

typedef void(SEER_CALL *seer_log_fn)(void *user, seer_log_level level, const char *message, size_t length);
typedef int32_t(SEER_CALL *seer_progress_fn)(void *user, uint64_t done, uint64_t total); /* non-zero cancels */
typedef void(SEER_CALL *seer_done_fn)(void *user, seer_ticket ticket, seer_status status);
typedef void(SEER_CALL *seer_release_fn)(void *user); /* the last use of user is over: free it here */

/* ---- Frozen structs: embedded by value ------------------------------------------------------------------------------- */

/* A borrowed view of memory, 128 bytes. All-zero means absent. */
typedef struct seer_tensor {
  seer_mem mem;
  seer_dtype dtype;
  int32_t ndim; /* 1..4 */
  uint32_t reserved0;
  void *data;          /* HOST, CUDA: base address. Inputs are never written */
  uint64_t vk_buffer;  /* VULKAN: a VkBuffer with STORAGE_BUFFER usage */
  seer_buffer *buffer; /* BUFFER */
  uint64_t offset;     /* bytes from the base to the first element; multiple of the element's size (GPU: of 16) */
  uint64_t size;       /* bytes reachable from the base. Required for HOST and VULKAN; CUDA, BUFFER: 0 asks the driver */
  int64_t shape[4];
  int64_t stride[4];   /* >= 0, innermost 1 (any if its extent is 1); all-zero = packed, last dimension fastest */
  uint64_t reserved1;
} seer_tensor;

/* How blocks are chosen, 40 bytes. A row that would keep nothing keeps its diagonal block. */
typedef struct seer_select_spec {
  seer_select_method method;
  int32_t last_dense_rows; /* block rows at the end that keep everything: 0 = the model's (2 without a model), -1 none, n >= 1 rows */
  double threshold;        /* THRESHOLD: 0..1; typical 5e-4 to 5e-3 at 32k-128k tokens */
  double ratio;            /* RATIO r in (0,1]: per row the top max(1, floor((1 - sqrt(1 - r)) nK)) blocks */
  int64_t token_budget;    /* BUDGET: per row the top max(1, token_budget / block) blocks */
  uint32_t flags;
  uint32_t reserved;
} seer_select_spec;
enum { SEER_SELECT_KEEP_DIAGONAL = 1, SEER_SELECT_KEEP_FIRST = 2 /* key block 0 */ };

/* Rotary position embedding, half-rotation layout, 48 bytes. */
typedef struct seer_rope {
  seer_rope_kind kind;
  uint32_t inv_freq_count;  /* INV_FREQ: half the channels it rotates */
  double theta;             /* THETA: base, e.g. 10000 */
  double attention_scaling; /* factor on cos and sin; 0 = 1 */
  const float *inv_freq;    /* INV_FREQ: host memory, inv_freq_count values */
  uint64_t reserved[2];
} seer_rope;

/* ---- Errors, version, devices ---------------------------------------------------------------------------------------- */

SEER_API uint32_t SEER_CALL seer_version(void);                      /* SEER_VERSION of the library that runs */
SEER_API const char *SEER_CALL seer_status_name(seer_status status); /* "SEER_ERROR_SHAPE", ...; static, never NULL */
/* What went wrong in this thread's last failed call. Never NULL; "" if none failed yet; valid until the next fails. */
SEER_API const char *SEER_CALL seer_last_error(void);

typedef struct seer_device_info { /* growable */
  uint32_t struct_size;
  seer_backend backend;
  int32_t ordinal;
  uint32_t vendor_id;    /* PCI vendor; 0 for CPUs */
  uint8_t uuid[16];      /* zero where unknown */
  uint64_t memory_bytes; /* memory the device can use */
  uint64_t dtype_bits;   /* 1 << dtype for every dtype of q, k, v it computes */
  char name[256];
  char detail[256];      /* kernels in use: instruction set, tier, driver; or why the device cannot be used */
} seer_device_info;
/* Backends that are not built in, or whose driver is missing, have 0 devices; that is no error. */
SEER_API seer_status SEER_CALL seer_device_count(seer_backend backend, int32_t *count);
SEER_API seer_status SEER_CALL seer_device_get(seer_backend backend, int32_t ordinal, seer_device_info *info);

/* ---- Context ----------------------------------------------------------------------------------------------------------- */

typedef struct seer_allocator { /* growable. alloc returns NULL on failure; free gets the size that alloc got. host_alloc
                                   and host_free come together or not at all (NULL = malloc), so do device_* */
  uint32_t struct_size;
  uint32_t reserved;
  void *(SEER_CALL *host_alloc)(void *user, uint64_t size, uint64_t align);
  void(SEER_CALL *host_free)(void *user, void *ptr, uint64_t size);
  /* NULL = the driver's allocator. `stream` is the CUDA stream the memory will be used on. */
  void *(SEER_CALL *device_alloc)(void *user, uint64_t size, void *stream);
  void(SEER_CALL *device_free)(void *user, void *ptr, uint64_t size, void *stream);
  void *user;
  seer_release_fn release; /* may be NULL; not called if seer_context_create fails. So too log_release below */
} seer_allocator;

typedef struct seer_context_params { /* growable */
  uint32_t struct_size;
  seer_backend backend;
  int32_t device;  /* ordinal */
  int32_t threads; /* CPU backend: 0 = one per core this process may use */
  uint64_t flags;
  const seer_allocator *allocator; /* NULL = malloc. Serves tensors' memory, workspace and weights, not bookkeeping */
  seer_log_fn log;                 /* NULL = silent */
  void *log_user;
  seer_release_fn log_release;
  seer_log_level log_level;    /* 0 = WARN */
  uint32_t reserved;
  uint64_t workspace_limit; /* bytes a call may take beyond its tensors; 0 = no limit. Over it: SEER_ERROR_OUT_OF_MEMORY */
} seer_context_params;
enum { SEER_CONTEXT_REFERENCE = 1 /* CPU only: the plain reference kernels, slow, for checking */ };

/* params NULL = defaults. */
SEER_API seer_status SEER_CALL seer_context_create(const seer_context_params *params, seer_context **out);
SEER_API seer_status SEER_CALL seer_context_info(const seer_context *ctx, seer_device_info *info);
SEER_API void SEER_CALL seer_context_retain(seer_context *ctx);
SEER_API void SEER_CALL seer_context_release(seer_context *ctx); /* work in flight is finished in the background */

/* ---- Models -------------------------------------------------------------------------------------------------------------- */

typedef struct seer_load_params { /* growable */
  uint32_t struct_size;
  uint32_t flags;
  int32_t first_layer; /* layers outside first_layer .. first_layer + layer_count are not loaded */
  int32_t layer_count; /* 0 = all from first_layer on */
  int32_t first_kv_head; /* a tensor-parallel rank's share, in KV heads; its query heads come along */
  int32_t kv_head_count; /* 0 = all from first_kv_head on */
  uint64_t max_file_bytes; /* per file; 0 = 16 GiB */
  seer_cancel *cancel;
  seer_progress_fn progress; /* bytes */
  void *progress_user;
} seer_load_params;
enum { SEER_LOAD_SAFETENSORS_ONLY = 1 /* never open a .pth */ };

typedef struct seer_gate_config { /* growable */
  uint32_t struct_size;
  int32_t layers; /* how many; of a model loaded in part, those loaded */
  int32_t q_heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t gate_dim;   /* E */
  int32_t block_size; /* 32, 64 or 128 */
  int32_t q_pool;     /* SEER_POOL_* bits */
  int32_t k_pool;
  int32_t force_double;    /* 1: mask_linear_q exists even where the single form would do */
  int32_t first_layer;     /* number of the first one: calls name layers first_layer .. first_layer + layers - 1 */
  uint32_t reserved;
  seer_rope rope;          /* of the model. THETA or INV_FREQ; dim head_dim */
  seer_rope gate_rope;     /* of the gate, dim gate_dim. DEFAULT: as rope, which must then be THETA or gate_dim == head_dim */
  seer_select_spec select; /* what SEER_SELECT_MODEL means; DEFAULT here = THRESHOLD 0 */
} seer_gate_config;

typedef struct seer_gate_weights { /* growable. Host tensors, f32, f16 or bf16; copied */
  uint32_t struct_size;
  uint32_t reserved;
  seer_tensor wq; /* [q_heads, head_dim * |q_pool|, gate_dim]; absent in the single form */
  seer_tensor wk; /* [kv_heads, head_dim * |k_pool|, gate_dim]; [q_heads, ...] in the single form */
} seer_gate_weights;

/* A Hugging Face style folder: config.json with attn_gate_weights.safetensors, else .pth, else the gates inside the
 * model's own .safetensors (with or without an index). params NULL = defaults. [BLOCKS] */
SEER_API seer_status SEER_CALL seer_model_load_dir(seer_context *ctx, const char *dir, const seer_load_params *params, seer_model **out);
/* The same from memory; weights are a .safetensors or .pth image, recognised by its first bytes. [BLOCKS] */
SEER_API seer_status SEER_CALL seer_model_load_memory(seer_context *ctx, const char *config_json, uint64_t config_size, const void *weights, uint64_t weights_size, const seer_load_params *params, seer_model **out);
/* From raw arrays: layers[i] are the weights of layer i, config->layers of them. [BLOCKS] */
SEER_API seer_status SEER_CALL seer_model_create(seer_context *ctx, const seer_gate_config *config, const seer_gate_weights *const *layers, seer_model **out);
/* Writes dir/config.json and dir/attn_gate_weights.safetensors (bf16 or the dtype they were loaded in). Each file is
 * complete or absent, whatever happens. dir must exist. [BLOCKS] */
SEER_API seer_status SEER_CALL seer_model_save(const seer_model *model, const char *dir);
/* Pointers in *out (rope.inv_freq) live as long as the model. */
SEER_API seer_status SEER_CALL seer_model_config(const seer_model *model, seer_gate_config *out);
SEER_API void SEER_CALL seer_model_retain(seer_model *model);
SEER_API void SEER_CALL seer_model_release(seer_model *model);

/* ---- Buffers ------------------------------------------------------------------------------------------------------------- */

SEER_API seer_status SEER_CALL seer_buffer_create(seer_context *ctx, uint64_t size, uint32_t flags /* 0 */, seer_buffer **out);
SEER_API seer_status SEER_CALL seer_buffer_address(const seer_buffer *buffer, void **address); /* CPU: host pointer; CUDA: device pointer */
SEER_API seer_status SEER_CALL seer_buffer_write(seer_buffer *buffer, uint64_t offset, const void *src, uint64_t size); /* queue-ordered. [BLOCKS] */
SEER_API seer_status SEER_CALL seer_buffer_read(const seer_buffer *buffer, uint64_t offset, void *dst, uint64_t size);  /* queue-ordered. [BLOCKS] */
SEER_API void SEER_CALL seer_buffer_retain(seer_buffer *buffer);
SEER_API void SEER_CALL seer_buffer_release(seer_buffer *buffer); /* freed after the last call that uses it */

/* ---- Cancelling ---------------------------------------------------------------------------------------------------------- */

SEER_API seer_status SEER_CALL seer_cancel_create(seer_cancel **out);
SEER_API void SEER_CALL seer_cancel_trigger(seer_cancel *cancel);
SEER_API void SEER_CALL seer_cancel_release(seer_cancel *cancel);

/* ---- Gate cache: chunked prefill ----------------------------------------------------------------------------------------- */

typedef struct seer_gate_cache_params { /* growable */
  uint32_t struct_size;
  int32_t sequences;   /* B of the calls it will serve, at most 2^20; 0 = 1 */
  int64_t max_tokens;  /* per sequence */
} seer_gate_cache_params;
/* Holds, per layer of the model and sequence, the gate's K vector of each complete block. A prefill or gate call that
 * names it pools only the blocks it lacks, then adds them. Keys themselves stay with the caller: each call passes all L.
 * It serves calls of this context and model whose chunk (from key L - S on) it does not cover yet: truncate it to run a
 * chunk again. Work that fails or is cancelled leaves it as it was. */
SEER_API seer_status SEER_CALL seer_gate_cache_create(seer_context *ctx, const seer_model *model, const seer_gate_cache_params *params, seer_gate_cache **out);
/* Tokens covered (a multiple of the block size), submitted work included. */
SEER_API seer_status SEER_CALL seer_gate_cache_length(const seer_gate_cache *cache, int32_t layer, int32_t sequence, int64_t *tokens);
/* Forgets what lies beyond `tokens` (rounded down to blocks), in all layers. 0 = clear. sequence -1 = all. */
SEER_API seer_status SEER_CALL seer_gate_cache_truncate(seer_gate_cache *cache, int32_t sequence, int64_t tokens);
SEER_API void SEER_CALL seer_gate_cache_release(seer_gate_cache *cache);

/* ---- Compute ---------------------------------------------------------------------------------------------------------------
 * B batch, S query tokens, L key tokens, Hq and Hkv heads (Hq a multiple of Hkv; query head h reads KV head h / (Hq/Hkv)),
 * D head dim, P block size, nQ = ceil(S/P), nK = ceil(L/P), W = ceil(nK/32).
 *
 * Attention is causal, aligned bottom-right: query i sees keys 0 .. L - S + i. L >= S.
 *
 * Layouts     batch                      packed (sequences.count > 0): T, TK = all tokens, R = sum of ceil(S_b/P)
 *   q, out    [B, S, Hq, D]              [T, Hq, D]
 *   k, v      [B, L, Hkv, D]             [TK, Hkv, D]
 *   lse       [B, Hq, S]    f32          [Hq, T]
 *   scores    [B, Hq, nQ, nK] f32        [Hq, R, nK]   nK of the longest sequence; a sequence's rows start where the
 *   mask      [B, Hq, nQ, W] B32         [Hq, R, W]    one before ends. U8 masks have nK bytes a row, 0 or 1
 * q, k, v, out share one dtype: F32, F16 or BF16. Strides are free, so [B, H, S, D] memory is a permuted view.
 * An out tensor's bytes, from its first element to its last, may overlap no other tensor's, nor its elements each other.
 * Accumulation is f32. Any extent may be 0 but H and D; none may exceed 2^31 - 1.
 *
 * Host tensors on a GPU context are staged through device memory: correct, not fast. */

/* The sequences of a packed batch, 24 bytes, frozen. Host arrays of count + 1 offsets: 0, rising, ending at T (TK). Each
 * sequence behaves as if it ran alone. count 0 = not packed. */
typedef struct seer_sequences {
  const int32_t *q;
  const int32_t *k; /* NULL = same as q */
  int32_t count;
  uint32_t reserved;
} seer_sequences;

typedef struct seer_prefill_desc { /* growable */
  uint32_t struct_size;
  uint32_t flags;           /* 0 */
  seer_tensor q;            /* after any q/k norm, BEFORE RoPE */
  seer_tensor k;            /* likewise */
  seer_tensor v;
  seer_tensor out;
  seer_tensor lse;          /* out, optional: natural log of the softmax denominators */
  seer_tensor scores;       /* out, optional: gate probabilities (logits for RATIO and BUDGET); 0 / -inf outside the triangle */
  seer_tensor mask;         /* out, optional: the blocks attended to */
  seer_sequences sequences;
  seer_select_spec select;
  seer_rope rope;           /* overrides both the attention's (dim D) and the gate's (dim gate_dim): INV_FREQ only if equal */
  double softmax_scale;     /* 0 = 1/sqrt(D) */
  seer_gate_cache *cache;   /* NULL: K is pooled whole. L - S must be a multiple of P, with or without a cache */
  int64_t total_len;        /* chunks: tokens of the whole prompt (>= L, that of every sequence), for RATIO and
                               last_dense_rows; 0 = L is all there is */
} seer_prefill_desc;

typedef struct seer_gate_desc { /* growable. pool, project, score and, if mask is given, select */
  uint32_t struct_size;
  uint32_t flags;           /* SEER_GATE_* */
  seer_tensor q;            /* before RoPE */
  seer_tensor k;
  seer_tensor scores;       /* out, optional (one of scores and mask must be there) */
  seer_tensor mask;         /* out, optional */
  seer_sequences sequences;
  seer_select_spec select;
  seer_rope rope;           /* overrides the gate's, dim gate_dim */
  seer_gate_cache *cache;
  int64_t total_len;
} seer_gate_desc;
enum { SEER_GATE_LOGITS = 1 /* scores are logits, whatever the method */ };

typedef struct seer_select_desc { /* growable. scores -> mask */
  uint32_t struct_size;
  uint32_t flags;           /* 0 */
  seer_tensor scores;       /* f32; probabilities for THRESHOLD, anything that ranks for the others */
  seer_tensor mask;
  seer_sequences sequences; /* tokens, as in prefill; required with packed scores */
  int64_t q_len;            /* S; 0 = nQ * P. Not used with sequences */
  int64_t k_len;            /* L; 0 = nK * P. Not used with sequences */
  int32_t block_size;       /* 32, 64 or 128; 0 = 64 */
  uint32_t reserved;
  seer_select_spec select;  /* not MODEL */
  int64_t total_len;
} seer_select_desc;

typedef struct seer_attention_desc { /* growable */
  uint32_t struct_size;
  uint32_t flags;           /* 0 */
  seer_tensor q;
  seer_tensor k;
  seer_tensor v;
  seer_tensor out;
  seer_tensor lse;          /* out, optional */
  seer_tensor mask;         /* in: absent = dense. Bits above the causal triangle are ignored. A row without blocks gives 0, lse -inf */
  seer_sequences sequences;
  seer_rope rope;           /* DEFAULT = none: q and k already carry it */
  double softmax_scale;
  int32_t block_size;       /* 32, 64 or 128; 0 = 64 */
  uint32_t reserved;
} seer_attention_desc;

typedef struct seer_submit { /* growable */
  uint32_t struct_size;
  uint32_t flags;
  seer_cancel *cancel;       /* cancelled work ends as CANCELLED, its outputs undefined, its cache as it was */
  seer_progress_fn progress; /* units of work, a few per stage and block row */
  void *progress_user;
  void *cuda_stream;         /* used instead of the context's if USE_STREAM is set (NULL is a real stream) */
} seer_submit;
enum { SEER_SUBMIT_BLOCKING = 1 /* wait, but with cancel and progress */, SEER_SUBMIT_USE_STREAM = 2 /* CUDA only */ };

/* submit NULL or BLOCKING: [BLOCKS] until complete and returns the work's outcome. Else asynchronous: the status says
 * whether the work was accepted, seer_wait how it went. *ticket (ticket may be NULL) names the work, also when it was
 * waited for, e.g. for its statistics. The model must be of the context's device. */
SEER_API seer_status SEER_CALL seer_prefill(seer_context *ctx, const seer_model *model, int32_t layer, const seer_prefill_desc *desc, const seer_submit *submit, seer_ticket *ticket);
SEER_API seer_status SEER_CALL seer_gate(seer_context *ctx, const seer_model *model, int32_t layer, const seer_gate_desc *desc, const seer_submit *submit, seer_ticket *ticket);
SEER_API seer_status SEER_CALL seer_select(seer_context *ctx, const seer_select_desc *desc, const seer_submit *submit, seer_ticket *ticket);
SEER_API seer_status SEER_CALL seer_attention(seer_context *ctx, const seer_attention_desc *desc, const seer_submit *submit, seer_ticket *ticket);

/* Bytes of workspace that a prefill of these sizes takes beyond its tensors. Pure arithmetic: enqueues nothing and does
 * not look at the tensors' memory, which need not be there yet (but mem must not be NONE). */
SEER_API seer_status SEER_CALL seer_prefill_workspace(seer_context *ctx, const seer_model *model, const seer_prefill_desc *desc, uint64_t *bytes);

/* ---- Completion ---------------------------------------------------------------------------------------------------------- */

typedef struct seer_stats { /* growable */
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t blocks_kept;     /* over batch, heads and rows, of calls that select; 0 in seer_attention */
  uint64_t blocks_causal;   /* of the causal triangle: density = kept / causal */
  uint64_t fallback_rows;   /* rows that would have kept nothing and kept their diagonal block */
  uint64_t workspace_bytes;
  uint64_t device_ns;       /* whole call; the stages below need not add up to it */
  uint64_t gate_ns;         /* pool, project, score, select */
  uint64_t attend_ns;
} seer_stats;

/* OK, or that work's error with its text in seer_last_error(). timeout 0 polls (SEER_NOT_READY), UINT64_MAX waits for
 * ever [BLOCKS], else SEER_TIMEOUT when it has passed. The outcome of a ticket is kept for the next 4096 tickets; older
 * ones are complete, which is all that is known (OK). SEER_TICKET_ALL only waits: OK, however the work went. */
SEER_API seer_status SEER_CALL seer_wait(seer_context *ctx, seer_ticket ticket, uint64_t timeout_ns);
/* fn runs exactly once, on a thread of the library, never inside this call. */
SEER_API seer_status SEER_CALL seer_on_done(seer_context *ctx, seer_ticket ticket, seer_done_fn fn, void *user);
/* Statistics of a completed ticket; SEER_NOT_READY before. Kept as long as its outcome. */
SEER_API seer_status SEER_CALL seer_ticket_stats(seer_context *ctx, seer_ticket ticket, seer_stats *out);

#ifdef __cplusplus
}
#endif
#endif
