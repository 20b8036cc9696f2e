// Process groups: collectives over tensors and gradients.
#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/exports.h"
#include "core/models/running_statistics.h"

namespace bidiseg::binding {
namespace {

// { backend, rank, size, store, host, port, hostsStore, file, name, timeoutSeconds }
ProcessGroupOptions group_options(const Options& options) {
  const auto store = options.choice<std::string>("store", {{"tcp", "tcp"}, {"file", "file"}});
  const std::string host = options.string("host");
  if (store == "tcp" && host.empty()) throw InvalidArgument("Expected a host name or an IP address for host");
  return {.backend = options.string("backend"),
          .rank = options.integer("rank", 0, 1 << 20),
          .size = options.integer("size", 1, 1 << 20),
          .store = store,
          .host = host,
          .port = options.integer("port", 0, 65535),
          .hosts_store = options.boolean("hostsStore"),
          .file = options.string("file"),
          .name = options.string("name"),
          .timeout_seconds = options.number("timeoutSeconds", 0.1, 86400)};
}

Napi::Value create_process_group(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), cancellation_argument(info[1]),
      [options = group_options(Options(info[0]))] { return std::make_shared<ProcessGroup>(options); },
      [](Napi::Env env, const std::shared_ptr<ProcessGroup>& group) {
        return Handle<ProcessGroup>::create(env, group, {});
      });
}

std::vector<at::Tensor> tensors_argument(const Napi::Value& value) {
  if (!value.IsArray()) throw InvalidArgument("Expected an array of tensors");
  const auto array = value.As<Napi::Array>();
  std::vector<at::Tensor> tensors;
  for (uint32_t i = 0; i < array.Length(); ++i) tensors.push_back(tensor_argument(array.Get(i), "tensors"));
  return tensors;
}

using InPlace = void (ProcessGroup::*)(const std::vector<at::Tensor>&);

// (group, tensors, cancellation?): a collective that replaces the tensors.
template <GroupCall Call, InPlace Collective>
Napi::Value replace_tensors(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), cancellation_argument(info[2]),
                   [group = Handle<ProcessGroup>::get(info[0], "group"), tensors = tensors_argument(info[1])] {
                     group->require_same(Call, tensors);
                     ((*group).*Collective)(tensors);
                   });
}

Napi::Value average_gradients(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), cancellation_argument(info[2]),
      [group = Handle<ProcessGroup>::get(info[0], "group"), network = Handle<Network>::get(info[1], "network")] {
        std::vector<at::Tensor> gradients;
        for (const at::Tensor& parameter : network->parameters()) {
          if (parameter.grad().defined()) gradients.push_back(parameter.grad());
        }
        group->require_same(GroupCall::kAverage, gradients);
        group->average(gradients);
      });
}

// (group, tensors, root, cancellation?)
Napi::Value broadcast_tensors(const Napi::CallbackInfo& info) {
  const int64_t root = info[2].IsNumber() ? info[2].As<Napi::Number>().Int64Value() : -1;
  return run_async(info.Env(), cancellation_argument(info[3]),
                   [group = Handle<ProcessGroup>::get(info[0], "group"), tensors = tensors_argument(info[1]), root] {
                     if (root < 0 || root >= group->size())
                       throw InvalidArgument("Expected a rank of the group for root");
                     group->require_same(GroupCall::kBroadcast, tensors, root);
                     group->broadcast(tensors, root);
                   });
}

Napi::Value all_gather(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), cancellation_argument(info[2]),
      [group = Handle<ProcessGroup>::get(info[0], "group"), tensor = tensor_argument(info[1], "tensor")] {
        group->require_same(GroupCall::kAllGather, {tensor});
        return group->all_gather(tensor);
      },
      [](Napi::Env env, const std::vector<at::Tensor>& tensors) {
        Napi::Array result = Napi::Array::New(env, tensors.size());
        for (size_t i = 0; i < tensors.size(); ++i) result.Set(static_cast<uint32_t>(i), tensor_to_js(env, tensors[i]));
        return result;
      });
}

// combineHistogram(histogram, group, cancellation?)
Napi::Value combine_histogram(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), cancellation_argument(info[2]),
                   [histogram = Handle<ThresholdHistogram>::get(info[0], "histogram"),
                    group = Handle<ProcessGroup>::get(info[1], "group")] { histogram->combine(*group); });
}

// combineStatistics(network, group, { own, all }, cancellation?)
Napi::Value combine_statistics(const Napi::CallbackInfo& info) {
  constexpr int64_t kMost = int64_t{1} << 52;
  const Options options(info[2]);
  return run_async(
      info.Env(), cancellation_argument(info[3]),
      [network = Handle<Network>::get(info[0], "network"), group = Handle<ProcessGroup>::get(info[1], "group"),
       own = options.integer("own", 0, kMost),
       all = options.integer("all", 1, kMost)] { combine_running_statistics(*network, own, all, *group); });
}

Napi::Value barrier(const Napi::CallbackInfo& info) {
  return run_async(info.Env(), cancellation_argument(info[1]), [group = Handle<ProcessGroup>::get(info[0], "group")] {
    group->require_same(GroupCall::kBarrier, {});
  });
}

Napi::Value bytes_sent(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(Handle<ProcessGroup>::get(info[0], "group")->bytes_sent()));
}

Napi::Value backends(const Napi::CallbackInfo& info) {
  Napi::Array result = Napi::Array::New(info.Env());
  for (const std::string& name : process_group_backends()) result.Set(result.Length(), name);
  return result;
}

}  // namespace

void export_distributed(Napi::Env env, Napi::Object exports) {
  Handle<ProcessGroup>::define(env, exports);
  exports.Set("createProcessGroup", Napi::Function::New<guarded<create_process_group>>(env));
  exports.Set("processGroupAdd",
              Napi::Function::New<guarded<replace_tensors<GroupCall::kAdd, &ProcessGroup::add>>>(env));
  exports.Set("processGroupAverage",
              Napi::Function::New<guarded<replace_tensors<GroupCall::kAverage, &ProcessGroup::average>>>(env));
  exports.Set("processGroupAverageGradients", Napi::Function::New<guarded<average_gradients>>(env));
  exports.Set("processGroupBroadcast", Napi::Function::New<guarded<broadcast_tensors>>(env));
  exports.Set("processGroupAllGather", Napi::Function::New<guarded<all_gather>>(env));
  exports.Set("combineHistogram", Napi::Function::New<guarded<combine_histogram>>(env));
  exports.Set("combineStatistics", Napi::Function::New<guarded<combine_statistics>>(env));
  exports.Set("processGroupBarrier", Napi::Function::New<guarded<barrier>>(env));
  exports.Set("processGroupBytesSent", Napi::Function::New<guarded<bytes_sent>>(env));
  exports.Set("processGroupBackends", Napi::Function::New<guarded<backends>>(env));
}

}  // namespace bidiseg::binding
