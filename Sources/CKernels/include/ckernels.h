#ifndef HEARTH_CKERNELS_H
#define HEARTH_CKERNELS_H
#include <stddef.h>
#include <stdint.h>
#endif
