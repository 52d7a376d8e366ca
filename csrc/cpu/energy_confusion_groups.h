// Rows by class: classes numbered by rising label, and the order that puts the rows of each side by side.
#pragma once

#include "../common/energy_confusion.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace robustdml::energy {

struct Classes {
  int64_t rows, count;
  const int64_t* order;  // [rows]
  const int64_t* begins; // [count + 1]

  Classes(const int64_t* groups, int64_t rows)
      : rows(rows), count(groups[Groups{rows}.classes()]), order(groups + Groups{rows}.order()),
        begins(groups + Groups{rows}.begins()) {}
  int64_t size(int64_t k) const {
    return begins[k + 1] - begins[k];
  }
  int64_t first(int64_t k) const {
    return order[begins[k]];
  }
  int64_t class_at(int64_t position) const {
    return std::upper_bound(begins, begins + count + 1, position) - begins - 1;
  }
};

// Gives every label its class: classes[row] in [0, C), by rising label; returns C. Sorting N labels would take
// longer than all else, so labels of a narrow range are counted, and others hashed until only distinct ones are
// left to sort.
inline int64_t number_classes(const int64_t* labels, int64_t rows, int64_t* classes) {
  int64_t lowest = labels[0], highest = labels[0];
  for (int64_t i = 1; i < rows; ++i) {
    lowest = std::min(lowest, labels[i]);
    highest = std::max(highest, labels[i]);
  }
  const uint64_t range = static_cast<uint64_t>(highest) - static_cast<uint64_t>(lowest);
  if (range < static_cast<uint64_t>(4 * rows + 1024)) {
    std::vector<int32_t> number(range + 1, 0);
    for (int64_t i = 0; i < rows; ++i) {
      number[labels[i] - lowest] = 1;
    }
    int32_t count = 0;
    for (int32_t& present : number) {
      count += present;
      present = count - 1;
    }
    for (int64_t i = 0; i < rows; ++i) {
      classes[i] = number[labels[i] - lowest];
    }
    return count;
  }
  int bits = 1;
  while ((int64_t{1} << bits) < 2 * rows) {
    ++bits;
  }
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  std::vector<int64_t> table(mask + 1, -1), distinct;
  for (int64_t i = 0; i < rows; ++i) {
    uint64_t slot = (static_cast<uint64_t>(labels[i]) * 0x9E3779B97F4A7C15u) >> (64 - bits);
    while (table[slot] >= 0 && distinct[table[slot]] != labels[i]) {
      slot = (slot + 1) & mask;
    }
    if (table[slot] < 0) {
      table[slot] = static_cast<int64_t>(distinct.size());
      distinct.push_back(labels[i]);
    }
    classes[i] = table[slot];
  }
  const int64_t count = static_cast<int64_t>(distinct.size());
  std::vector<int64_t> by_label(count), number(count);
  std::iota(by_label.begin(), by_label.end(), 0);
  std::sort(by_label.begin(), by_label.end(), [&](int64_t a, int64_t b) { return distinct[a] < distinct[b]; });
  for (int64_t k = 0; k < count; ++k) {
    number[by_label[k]] = k;
  }
  for (int64_t i = 0; i < rows; ++i) {
    classes[i] = number[classes[i]];
  }
  return count;
}

// Calls run(begin, end) for every run of equal neighbors. Samplers put a class's rows side by side, and counting
// them one by one would wait for the same counter every time.
template <typename Run>
inline void for_runs(const std::vector<int64_t>& values, const Run& run) {
  const int64_t count = static_cast<int64_t>(values.size());
  for (int64_t begin = 0, end; begin < count; begin = end) {
    for (end = begin + 1; end < count && values[end] == values[begin];) {
      ++end;
    }
    run(begin, end);
  }
}

// Fills all of `groups` but the number of pairs.
inline void group_rows(const int64_t* labels, int64_t rows, int64_t* groups) {
  const Groups at{rows};
  int64_t *order = groups + at.order(), *begins = groups + at.begins();
  std::vector<int64_t> classes(rows);
  const int64_t count = rows ? number_classes(labels, rows, classes.data()) : 0;
  groups[at.classes()] = count;
  std::vector<int64_t> next(count + 1, 0);
  for_runs(classes, [&](int64_t begin, int64_t end) { next[classes[begin] + 1] += end - begin; });
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::fill(std::copy(next.begin(), next.end(), begins), begins + rows + 1, rows);
  for_runs(classes, [&](int64_t begin, int64_t end) {
    int64_t& place = next[classes[begin]];
    std::iota(order + place, order + place + (end - begin), begin);
    place += end - begin;
  });
}

} // namespace robustdml::energy
