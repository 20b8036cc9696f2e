// Functions that are compiled for several instruction sets, of which the best is used, as in LibTorch's own kernels.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define BIDISEG_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define BIDISEG_CLONES
#endif
