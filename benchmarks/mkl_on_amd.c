/* Lets a peer's MKL use what an AMD CPU has; loaded before it, as README.md says.
   MKL asks these two whether the CPU is Intel's, and takes AVX-512 only where both say so. */
int mkl_serv_intel_cpu_true(void) { return 1; }
int mkl_serv_intel_cpu(void) { return 1; }
