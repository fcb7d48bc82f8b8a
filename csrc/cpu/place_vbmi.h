// Maps put into a run with gaps, with AVX-512 VBMI2: 64 places at a time by one expansion, whatever the rows'
// width.
//
// Included inside the target region and namespace of its level.

inline void place(const uint8_t* dense, int64_t maps, const Padding& padding, uint8_t sentinel, uint8_t* run) {
  const int64_t length = maps * padding.pitch_n;
  if (length > padding.pattern_length()) return place_rows(dense, maps, padding, sentinel, run);
  const __m512i gap = _mm512_set1_epi8(static_cast<char>(sentinel));
  const uint64_t* pattern = padding.pattern.data();
  for (int64_t i = 0; i < length; i += 64) {
    const __mmask64 lanes = length - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (length - i)) - 1;
    const __mmask64 sites = *pattern++ & lanes;
    const __m512i levels = _mm512_mask_expand_epi8(gap, sites, _mm512_loadu_si512(dense));
    _mm512_mask_storeu_epi8(run + i, lanes, levels);
    dense += __builtin_popcountll(sites);
  }
}
