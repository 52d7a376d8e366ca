// What the CPU and the CUDA kernels of energy confusion share: how the rows of a batch are grouped by class.
#pragma once

#include "host_device.h"

#include <cstdint>

namespace robustdml::energy {

// The int64 tensor [2N + 3] that the forward pass leaves to the backward pass. Classes are numbered by rising
// label, the rows of a class keep the order of the batch. Sized by N, as CUDA code learns C on the device alone.
struct Groups {
  int64_t rows; // N

  ROBUSTDML_HOST_DEVICE static constexpr int64_t size(int64_t rows) {
    return 2 * rows + 3;
  }
  ROBUSTDML_HOST_DEVICE int64_t order() const { // [N]: the rows, class by class
    return 0;
  }
  ROBUSTDML_HOST_DEVICE int64_t begins() const { // [N + 1]: where each class begins among them, then N
    return rows;
  }
  ROBUSTDML_HOST_DEVICE int64_t classes() const { // C
    return 2 * rows + 1;
  }
  ROBUSTDML_HOST_DEVICE int64_t pairs() const { // how many ordered pairs I ≠ J are summed
    return 2 * rows + 2;
  }
};

} // namespace robustdml::energy
