"""What the kernels share: array types, SIMD, the cache of compiled code, and the choice between NumPy and Numba."""
