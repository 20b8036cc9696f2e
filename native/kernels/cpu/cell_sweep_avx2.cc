#define BIDISEG_ISA avx2
#define BIDISEG_VECTOR_BYTES 32
#include "kernels/cpu/cell_sweep_kernels.h"
