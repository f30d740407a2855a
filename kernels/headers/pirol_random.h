/* random_bits: the first word of Threefry2x32 of 13 rounds, for CPU and CUDA;
   prim/random.py is its meaning. Written out, since what is a loop does not go into a
   vector's lanes. */
#ifndef PIROL_RANDOM_H
#define PIROL_RANDOM_H
#define PR_ROUND(by) a += b, b = (b << by | b >> (32 - by)) ^ a;
#define PR_ADD_KEYS(one, two, number) a += one, b += two + number;

PR_DEVICE int pr_random_bits(unsigned long long key, unsigned long long place) {
  unsigned a = (unsigned)place, b = (unsigned)(place >> 32);
  const unsigned low = (unsigned)key, high = (unsigned)(key >> 32);
  const unsigned both = low ^ high ^ 0x1BD11BDAu;
  PR_ADD_KEYS(low, high, 0)
  PR_ROUND(13) PR_ROUND(15) PR_ROUND(26) PR_ROUND(6)
  PR_ADD_KEYS(high, both, 1)
  PR_ROUND(17) PR_ROUND(29) PR_ROUND(16) PR_ROUND(24)
  PR_ADD_KEYS(both, low, 2)
  PR_ROUND(13) PR_ROUND(15) PR_ROUND(26) PR_ROUND(6)
  PR_ADD_KEYS(low, high, 3)
  PR_ROUND(17)
  return (int)a;
}
#endif
