#define BIDISEG_ISA avx512
#define BIDISEG_VECTOR_BYTES 64
#include "kernels/cpu/cell_sweep_kernels.h"
