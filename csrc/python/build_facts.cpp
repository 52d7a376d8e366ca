// What was built, and with what: read by `run doctor`.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

namespace {

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) {
    parts.push_back(part);
  }
  return parts;
}

pybind11::dict facts() {
  pybind11::dict result;
  result["version"] = ROBUSTDML_VERSION;
  result["compiler"] = ROBUSTDML_COMPILER;
  result["simd_levels"] = split(ROBUSTDML_SIMD_LEVELS);
  result["cuda_compiler"] = ROBUSTDML_CUDA_COMPILER;
  result["cuda_archs"] = split(ROBUSTDML_CUDA_ARCHS);
  result["torch_abi_target"] = ROBUSTDML_TORCH_TARGET;
  result["torch_built_with"] = ROBUSTDML_TORCH_VERSION;
  return result;
}

} // namespace

PYBIND11_MODULE(_build_facts, module) {
  module.doc() = "Facts of this build.";
  module.def("facts", &facts, "Compiler, SIMD levels, CUDA architectures and ABI target of this build.");
}
