#define BIDISEG_ISA portable
#define BIDISEG_VECTOR_BYTES 16
#include "kernels/cpu/cell_sweep_kernels.h"
