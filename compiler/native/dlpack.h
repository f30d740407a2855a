/* The part of DLPack 1.3 that the runtime uses: tensors and the exchange API. */
#ifndef PIROL_DLPACK_H
#define PIROL_DLPACK_H

#include <stdint.h>

enum { DL_CPU = 1, DL_CUDA };
enum { DL_INT, DL_UINT, DL_FLOAT, DL_BFLOAT = 4, DL_COMPLEX, DL_BOOL };

typedef struct {
    uint32_t major, minor;
} DLVersion;

typedef struct {
    int32_t type, id;
} DLDevice;

typedef struct {
    uint8_t code, bits;
    uint16_t lanes;
} DLDataType;

typedef struct {
    void *data;
    DLDevice device;
    int32_t rank;
    DLDataType dtype;
    int64_t *shape;
    int64_t *strides; /* in items; may be null where the tensor is contiguous */
    uint64_t byte_offset;
} DLTensor;

typedef struct DLManaged DLManaged;

typedef void (*DLSetError)(void *context, const char *kind, const char *message);

/* The table behind `Tensor.__c_dlpack_exchange_api__`; all return 0 on success. */
typedef struct DLExchange {
    DLVersion version;
    struct DLExchange *previous;
    int (*allocate)(DLTensor *like, DLManaged **out, void *context, DLSetError);
    int (*from_object)(void *object, DLManaged **out);
    int (*to_object)(DLManaged *tensor, void **out);
    int (*view_object)(void *object, DLTensor *out); /* borrows, holds nothing */
    int (*current_stream)(int32_t device_type, int32_t device_id, void **out);
} DLExchange;

#endif
