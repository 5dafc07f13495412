"""What the kernels share: array types, the cache of compiled code, SIMD, and who computes, NumPy or Numba."""
