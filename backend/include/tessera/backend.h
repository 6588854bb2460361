/* The backend plugin ABI: a shared library that exports TESSERA_PLUGIN_ENTRY gives Tessera a Backend.
 *
 * Only C types cross the boundary: codes and message buffers, never C++ objects or exceptions; text is ASCII.
 * Every struct begins with struct_size, set by whoever owns the memory, so that a field appended later is
 * seen to be absent: nobody reads or writes beyond it. Structs that may grow are therefore held by pointer,
 * never embedded. The ABI is 0.x: it may break between minor versions until sessions are in, and a plugin
 * built for another version is refused when it is loaded. tessera/backend.hpp is a thin C++ helper over this
 * header.
 */
#pragma once

#include "tessera/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TESSERA_ABI_VERSION_MAJOR 0u
#define TESSERA_ABI_VERSION_MINOR 4u
#define TESSERA_ABI_VERSION ((TESSERA_ABI_VERSION_MAJOR << 16) | TESSERA_ABI_VERSION_MINOR)

/* Status codes: the values of google.rpc.Code that a backend may return. */
TESSERA_ENUM(tessera_code){
    TESSERA_OK = 0,
    TESSERA_INVALID_ARGUMENT = 3,
    TESSERA_NOT_FOUND = 5,
    TESSERA_RESOURCE_EXHAUSTED = 8,
    TESSERA_FAILED_PRECONDITION = 9,
    TESSERA_OUT_OF_RANGE = 11,
    TESSERA_UNIMPLEMENTED = 12,
    TESSERA_INTERNAL = 13,
    TESSERA_UNAVAILABLE = 14,
};

/* Where a failing call writes its reason: at most `capacity` bytes, NUL included. Owned by the caller. */
typedef struct tessera_message {
  char* text;
  size_t capacity;
} tessera_message;

/* Feature bits of a problem, and of what a backend can do. */
TESSERA_ENUM(tessera_feature){
    TESSERA_FEATURE_GQA = 1 << 0,              /* num_q_heads > num_kv_heads */
    TESSERA_FEATURE_UNEQUAL_HEAD_DIM = 1 << 1, /* head_dim_qk != head_dim_v */
    TESSERA_FEATURE_CAUSAL = 1 << 2,           /* a sequence with window_right == 0 */
    TESSERA_FEATURE_WINDOW = 1 << 3,           /* a sequence with window_left >= 0 or window_right > 0 */
    TESSERA_FEATURE_SOFTCAP = 1 << 4,
    TESSERA_FEATURE_ALIBI = 1 << 5,
    TESSERA_FEATURE_SINKS = 1 << 6,
    TESSERA_FEATURE_BOOLEAN_MASK = 1 << 7,
    TESSERA_FEATURE_ADDITIVE_MASK = 1 << 8,
    TESSERA_FEATURE_LSE = 1 << 9,
    TESSERA_FEATURE_OUTPUT_DTYPE = 1 << 10, /* o.dtype != q.dtype */
    TESSERA_FEATURE_ALL = (1 << 11) - 1,
};

typedef struct tessera_capabilities {
  uint32_t struct_size;
  uint32_t features;         /* union of tessera_feature */
  uint32_t input_dtypes;     /* bit (1 << tessera_dtype) for each that Q, K and V may have; fp8 with scales */
  uint32_t output_dtypes;    /* likewise for O */
  int32_t max_head_dim;      /* largest head_dim_qk and head_dim_v */
  int32_t head_dim_multiple; /* both head dims must be a multiple of this */
} tessera_capabilities;

/* What a backend chose for one problem, and what that will take; filled by plan(). */
typedef struct tessera_plan {
  uint32_t struct_size;
  int64_t workspace_bytes;     /* device scratch that enqueue() needs, 64-byte aligned by the caller */
  char kernel[96];             /* kernel name as a profiler would show it, NUL-terminated */
  int32_t tile_q;              /* query rows of a tile; 0 where the notion does not apply */
  int32_t tile_kv;             /* keys of a tile */
  int32_t stages;              /* K/V tiles in flight */
  int32_t num_splits;          /* parts a sequence's keys are split into */
  int64_t fast_memory_bytes;   /* shared memory per block (GPU), or cache working set per thread (CPU) */
  int32_t launches;            /* kernel launches of one enqueue() */
  int32_t materialises_scores; /* 1: the N x N scores are written to memory */
} tessera_plan;

/* What a launch moves from and to device memory, modelled; filled by model_traffic(). */
typedef struct tessera_traffic {
  uint32_t struct_size;
  int64_t read_bytes;
  int64_t write_bytes;
} tessera_traffic;

/* An ordered queue of device work. Opaque; owned by whoever created it. On the host CPU a stream is the
 * server's thread pool: work runs inside enqueue(), and is complete when it returns. */
typedef struct tessera_stream tessera_stream;

/* Services of the server that a plugin may call. Valid until the plugin's destroy() returns. */
typedef struct tessera_host {
  uint32_t struct_size;
  uint32_t abi_version; /* of the server */
  /* Runs body(context, task, worker) for every task in [0, num_tasks) on the CPU stream's threads and returns
   * when all are done. worker is in [0, num_workers(stream)): at most one task at a time runs with a given
   * worker, so it may index scratch. body must not throw. For a stream of the host CPU only. */
  void (*parallel_for)(tessera_stream* stream, int64_t num_tasks,
                       void (*body)(void* context, int64_t task, int32_t worker), void* context);
  int32_t (*num_workers)(tessera_stream* stream);
} tessera_host;

/* A device: memory, streams and events, for a plugin that brings hardware of its own. A plugin that runs on
 * the host CPU brings none. Every function may be called from several threads at once, and returns TESSERA_OK
 * or a code and fills message. TESSERA_UNAVAILABLE from copy_async, event_record, stream_wait_event or
 * event_synchronize says that the device is lost for good: the server turns its health to NOT_SERVING, drains
 * and exits; what it frees or destroys after that must not crash. From other functions it is an error as any
 * other. Memory is 64-byte aligned. */
typedef struct tessera_event tessera_event;

TESSERA_ENUM(tessera_memory_kind){TESSERA_MEMORY_DEVICE = 0, TESSERA_MEMORY_PINNED = 1};
TESSERA_ENUM(tessera_copy_kind){
    TESSERA_COPY_HOST_TO_DEVICE = 0,
    TESSERA_COPY_DEVICE_TO_HOST = 1,
    TESSERA_COPY_DEVICE_TO_DEVICE = 2,
};

typedef struct tessera_device_info {
  uint32_t struct_size;
  char name[128];
  int32_t compute_units; /* streaming multiprocessors, or cores */
  int64_t total_memory_bytes;
  int64_t free_memory_bytes; /* at the time of the call */
  int64_t fast_memory_bytes; /* shared memory per block, or L2 cache per core */
  int64_t l2_bytes;          /* last cache shared by all compute units */
} tessera_device_info;

typedef struct tessera_device_table {
  uint32_t struct_size;
  void* self;
  const char* name; /* "cuda:0": [a-z][a-z0-9_:]*, unique in the server */
  tessera_code (*info)(void* self, tessera_device_info* info, tessera_message* message);
  tessera_code (*allocate)(void* self, tessera_memory_kind kind, size_t bytes, void** memory,
                           tessera_message* message);
  void (*free)(void* self, tessera_memory_kind kind, void* memory);
  tessera_code (*stream_create)(void* self, tessera_stream** stream, tessera_message* message);
  void (*stream_destroy)(void* self, tessera_stream* stream);
  tessera_code (*copy_async)(void* self, void* destination, const void* source, size_t bytes,
                             tessera_copy_kind kind, tessera_stream* stream, tessera_message* message);
  tessera_code (*event_create)(void* self, tessera_event** event, tessera_message* message);
  void (*event_destroy)(void* self, tessera_event* event);
  tessera_code (*event_record)(void* self, tessera_event* event, tessera_stream* stream,
                               tessera_message* message);
  /* Work queued on `stream` from now on runs after the work before the event's latest record, which may be on
   * another stream. Does not block. */
  tessera_code (*stream_wait_event)(void* self, tessera_stream* stream, tessera_event* event,
                                    tessera_message* message);
  /* Blocks until the work before the event is done; returns the error of that work, if it failed. */
  tessera_code (*event_synchronize)(void* self, tessera_event* event, tessera_message* message);
  tessera_code (*event_elapsed_us)(void* self, tessera_event* begin, tessera_event* end, double* microseconds,
                                   tessera_message* message);
} tessera_device_table;

/* A backend. All but enqueue() may be called from several threads at once; enqueue() from one thread per
 * stream. Pointers are valid for the call, device memory until the event recorded after enqueue() is done. */
typedef struct tessera_backend_table {
  uint32_t struct_size;
  void* self;
  const char* name;        /* [a-z][a-z0-9_]*, unique in the server */
  const char* description; /* one line */
  int32_t auto_priority;   /* `auto` takes the highest that supports the problem; negative: never */
  const tessera_capabilities* capabilities;
  /* What capabilities cannot say. May be NULL. UNIMPLEMENTED with a message that names what is missing. */
  tessera_code (*supports)(void* self, const tessera_attention_problem* problem, tessera_message* message);
  /* Fills *plan; launches nothing, reads no tensor: data pointers may be NULL. Every request waits for it,
   * and a large one for that of each part that it is cut into. */
  tessera_code (*plan)(void* self, const tessera_attention_problem* problem, tessera_plan* plan,
                       tessera_message* message);
  /* Queues the work. Never allocates device memory, synchronises or keeps a pointer. Writes every row of every
   * sequence to o (and to lse, where asked for): their memory holds whatever it held before. */
  tessera_code (*enqueue)(void* self, const tessera_plan* plan, const tessera_attention_problem* problem,
                          void* workspace, tessera_stream* stream, tessera_message* message);
  /* Fills *traffic with what enqueue() moves; as plan(), launches nothing and reads no tensor. `plan` is that
   * of this problem. Called for a dry run, and for the ledger of a request while the device works on it: no
   * work waits for it. May be NULL: then the ledger says 0, not known. */
  tessera_code (*model_traffic)(void* self, const tessera_plan* plan,
                                const tessera_attention_problem* problem, tessera_traffic* traffic,
                                tessera_message* message);
} tessera_backend_table;

/* What a plugin hands over. Every pointer is valid until destroy() returns. */
typedef struct tessera_plugin {
  uint32_t struct_size;
  uint32_t abi_version; /* TESSERA_ABI_VERSION the plugin was built with */
  const char* name;
  const char* version;
  const tessera_backend_table* backend;
  const tessera_device_table* device; /* NULL: the backend runs on the host CPU */
  void (*destroy)(void* self); /* called with backend->self, last of all; frees everything; may be NULL */
} tessera_plugin;

/* The one exported symbol. Fills *plugin and returns TESSERA_OK, or a code and a message. The server sets
 * plugin->struct_size before the call; the plugin writes no field beyond it. */
#define TESSERA_PLUGIN_ENTRY tessera_plugin_create
#define TESSERA_PLUGIN_ENTRY_NAME "tessera_plugin_create"
typedef tessera_code (*tessera_plugin_create_fn)(const tessera_host* host, tessera_plugin* plugin,
                                                 tessera_message* message);

/* Also exported, read before the entry is called, so that a plugin of another ABI is refused by its number
 * and not by a crash: returns TESSERA_ABI_VERSION. */
#define TESSERA_PLUGIN_ABI tessera_plugin_abi
#define TESSERA_PLUGIN_ABI_NAME "tessera_plugin_abi"
typedef uint32_t (*tessera_plugin_abi_fn)(void);

#ifdef __cplusplus
} /* extern "C" */
#endif
