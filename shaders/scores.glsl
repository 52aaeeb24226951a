// What scores mean to softmax and select: which can be kept, their order, their probabilities. Needs args.h.
//
// Scores are handled by their bits where NaN, infinities or equality matter: compilers may assume there are none.

const uint NEGATIVE_INFINITY = 0xff800000u, POSITIVE_INFINITY = 0x7f800000u;

// Whether a score can be kept at all: neither NaN nor -inf.
bool is_valid(uint word) { return (word & 0x7fffffffu) <= POSITIVE_INFINITY && word != NEGATIVE_INFINITY; }

// Rises with the score, by its bits: -0 is 0, and NaN and -inf are 0 and below every valid one.
const uint LEAST_KEY = 0x00800000u;  // of the lowest finite score
uint key_of(uint word) {
  if (!is_valid(word)) return 0;
  if (word == 0x80000000u) word = 0;
  return (word & 0x80000000u) != 0 ? ~word : word | 0x80000000u;
}

// softmax(row)[j] = weight(score j) / sum, by the rules of softmax_row in src/cpu/ref.h.
struct Softmax {
  float top, sum;
};

float weight(Softmax s, uint word) {
  if (!is_valid(word)) return 0.0;
  if (floatBitsToUint(s.top) == POSITIVE_INFINITY) return word == POSITIVE_INFINITY ? 1.0 : 0.0;
  return exp(uintBitsToFloat(word) - s.top);
}

// A division may be off by 2.5 ulps; equal scores must give what a rounded quotient gives, or a threshold of 1 / n
// decides otherwise than elsewhere.
float divided(float weight, float sum) {
  const float quotient = weight / sum;
  return fma(fma(-quotient, sum, weight), 1.0 / sum, quotient);
}

float probability(Softmax s, uint word) { return s.sum == 0.0 ? 0.0 : divided(weight(s, word), s.sum); }
