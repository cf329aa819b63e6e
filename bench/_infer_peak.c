// How many float32 operations one core can do at most: multiplications and additions in registers, nothing else.

#include <stdio.h>
#include <time.h>

typedef float vec __attribute__((vector_size(64)));

int main(void) {
  vec sums[12] = {}, factor = (vec){} + 1.0001f, more = (vec){} + 0.999f;
  const long n_rounds = 20000000;
  double best = 0;
  for (int attempt = 0; attempt < 4; attempt++) {
    clock_t started = clock();
    for (long i = 0; i < n_rounds; i++)
#pragma GCC unroll 12
      for (int k = 0; k < 12; k++) sums[k] = sums[k] * factor + more;
    double rate = n_rounds * 12.0 * 16 * 2 / ((double)(clock() - started) / CLOCKS_PER_SEC);
    best = rate > best ? rate : best;
  }
  for (int k = 1; k < 12; k++) sums[0] += sums[k];
  printf("%g %g\n", best, sums[0][0]); // so that no compiler leaves the sums out
}
