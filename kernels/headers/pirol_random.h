/* random_bits: the first word of Philox4x32 of 7 rounds, for CPU and CUDA; prim/random.py
   is its meaning. Written out, since what is a loop does not go into a vector's lanes. */
#ifndef PIROL_RANDOM_H
#define PIROL_RANDOM_H
typedef unsigned long long pr_words; /* two words */

#define PR_PHILOX_ROUND                                                        \
  one = (pr_words)a * 0xD2511F53u, two = (pr_words)c * 0xCD9E8D57u;              \
  a = (unsigned)(two >> 32) ^ b ^ low, b = (unsigned)two;                      \
  c = (unsigned)(one >> 32) ^ d ^ high, d = (unsigned)one;                     \
  low += 0x9E3779B9u, high += 0xBB67AE85u;

PR_DEVICE int pr_random_bits(pr_words key, pr_words place) {
  unsigned a = (unsigned)place, b = (unsigned)(place >> 32), c = 0, d = 0;
  unsigned low = (unsigned)key, high = (unsigned)(key >> 32);
  pr_words one, two;
  PR_PHILOX_ROUND PR_PHILOX_ROUND PR_PHILOX_ROUND PR_PHILOX_ROUND
  PR_PHILOX_ROUND PR_PHILOX_ROUND PR_PHILOX_ROUND
  (void)b, (void)c, (void)d;
  return (int)a;
}
#endif
