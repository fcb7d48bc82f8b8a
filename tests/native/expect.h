// What the programs here say of results that differ.
#pragma once

#include <cstdio>
#include <vector>

inline int failures = 0;

template <class T>
void expect_equal(const char* what, int L, const std::vector<T>& got, const std::vector<T>& wanted) {
  if (got == wanted) return;
  std::printf("%s differs at L = %d\n", what, L);
  ++failures;
}
