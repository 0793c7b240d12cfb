#ifndef HEARTH_CKERNELS_H
#define HEARTH_CKERNELS_H
// The module's one door: a new header is listed here, or Swift does not see it.
#include "ckernels_gemm.h"
#include "ckernels_int8.h"
#include "ckernels_platform.h"
#include "ckernels_set.h"
#include "ckernels_transformer.h"
#endif
