// A row of scores, and what all threads of a workgroup know of it together. Needs kRowThreads threads, args.h, a
// constant CACHED and a buffer of words named scores.
//
// A cached row lies in shared memory with a word of padding behind every 32: threads may then read it one score or one
// word of the mask (32 scores) apart without meeting in a bank. The row of a kernel with CACHED 0 is read from memory
// each time.
#include "scores.glsl"

shared uint cached[CACHED + CACHED / 32 + 33];
shared float reduced[kRowThreads];
shared uint counters[3];

uint row_word(uint base, uint j) { return CACHED != 0 ? cached[j + (j >> 5)] : scores[base + j]; }
void cache_word(uint j, uint word) { cached[j + (j >> 5)] = word; }

float reduce_max(float x) {
  const uint thread = gl_LocalInvocationID.x;
  reduced[thread] = x;
  for (uint n = kRowThreads / 2; n > 0; n /= 2) {
    barrier();
    if (thread < n) reduced[thread] = max(reduced[thread], reduced[thread + n]);
  }
  barrier();
  const float result = reduced[0];
  barrier();
  return result;
}

float reduce_sum(float x) {
  const uint thread = gl_LocalInvocationID.x;
  reduced[thread] = x;
  for (uint n = kRowThreads / 2; n > 0; n /= 2) {
    barrier();
    if (thread < n) reduced[thread] += reduced[thread + n];
  }
  barrier();
  const float result = reduced[0];
  barrier();
  return result;
}

// Sums of counts. Three counters in turn, so that one barrier a sum will do: that of the sum before may still be read,
// the one after is made 0. `turn` is the same for all threads and begins at 0 after clear_counters.
void clear_counters() {
  barrier();  // sums before are read
  if (gl_LocalInvocationID.x < 3) counters[gl_LocalInvocationID.x] = 0;
  barrier();
}
uint sum_counts(uint n, inout uint turn) {
  if (n != 0) atomicAdd(counters[turn], n);
  barrier();
  const uint total = counters[turn];
  if (gl_LocalInvocationID.x == 0) counters[(turn + 2) % 3] = 0;
  turn = (turn + 1) % 3;
  return total;
}

Softmax softmax_of(uint base, uint n) {
  const uint thread = gl_LocalInvocationID.x;
  Softmax s;
  s.top = -3.402823466e38;  // lowest
  s.sum = 0.0;
  for (uint j = thread; j < n; j += kRowThreads) {
    const uint word = row_word(base, j);
    if (is_valid(word)) s.top = max(s.top, uintBitsToFloat(word));
  }
  s.top = reduce_max(s.top);
  for (uint j = thread; j < n; j += kRowThreads) s.sum += weight(s, row_word(base, j));
  s.sum = reduce_sum(s.sum);
  return s;
}
