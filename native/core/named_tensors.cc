#include "core/named_tensors.h"

#include <sstream>
#include <unordered_map>

#include "core/errors.h"

namespace bidiseg {
namespace {

std::string shape_text(const at::Tensor& tensor) {
  std::ostringstream out;
  out << tensor.sizes();
  return out.str();
}

}  // namespace

void append(NamedTensors& all, const std::string& prefix, const NamedTensors& part) {
  for (const auto& [name, tensor] : part) all.emplace_back(prefix + name, tensor);
}

NamedTensors extract(NamedTensors& all, const std::string& prefix) {
  NamedTensors part, rest;
  for (auto& [name, tensor] : all) {
    if (name.starts_with(prefix)) {
      part.emplace_back(name.substr(prefix.size()), std::move(tensor));
    } else {
      rest.emplace_back(std::move(name), std::move(tensor));
    }
  }
  all = std::move(rest);
  return part;
}

void copy_tensors(const NamedTensors& own, const NamedTensors& incoming, const std::string& complaint) {
  std::unordered_map<std::string, at::Tensor> found(incoming.begin(), incoming.end());
  std::vector<std::string> problems;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;
  for (const auto& [name, tensor] : own) {
    const auto entry = found.extract(name);
    if (entry.empty()) {
      problems.push_back("missing " + name);
    } else if (entry.mapped().sizes() != tensor.sizes()) {
      problems.push_back(name + " is " + shape_text(entry.mapped()) + ", not " + shape_text(tensor));
    } else {
      copies.emplace_back(tensor, entry.mapped());
    }
  }
  for (const auto& [name, tensor] : found) problems.push_back("unexpected " + name);
  if (!problems.empty()) {
    constexpr size_t kShown = 3;
    std::string message = complaint + ": ";
    for (size_t i = 0; i < std::min(kShown, problems.size()); ++i) message += (i ? "; " : "") + problems[i];
    if (problems.size() > kShown) message += "; and " + std::to_string(problems.size() - kShown) + " more";
    throw InvalidArgument(message);
  }
  at::NoGradGuard no_grad;
  for (auto& [to, from] : copies) to.copy_(from);
}

}  // namespace bidiseg
