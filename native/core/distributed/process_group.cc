#include "core/distributed/process_group.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "core/cancellation.h"
#include "core/errors.h"

namespace bidiseg {
namespace {

using Clock = std::chrono::system_clock;
using std::chrono::milliseconds;

// Bytes of a bucket. Larger ones gain nothing, and smaller ones cost latency.
constexpr int64_t kBucketBytes = int64_t{25} << 20;
// A tensor with as many bytes travels by itself, from where it lies: copying it would take longer than the latency.
constexpr int64_t kLargeBytes = int64_t{1} << 20;
// How often a process reports that it is alive, and after how many missed reports it counts as missing.
constexpr milliseconds kHeartbeat{1000};
constexpr int64_t kMissedHeartbeats = 5;

milliseconds timeout_of(const ProcessGroupOptions& options) {
  return milliseconds(static_cast<int64_t>(options.timeout_seconds * 1000));
}

// c10d trusts the file of a store: in any other file it reads on beyond the end and never returns. A store is a
// sequence of keys and values, each after its length in 4 bytes. Processes lock it while they write.
bool is_store(int descriptor) {
  struct stat status;
  if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode) || flock(descriptor, LOCK_SH) != 0) return false;
  fstat(descriptor, &status);
  const auto size = static_cast<uint64_t>(status.st_size);
  uint64_t position = 0, parts = 0;
  uint32_t length = 0;
  for (; position + sizeof(length) <= size; ++parts) {
    if (pread(descriptor, &length, sizeof(length), static_cast<off_t>(position)) != sizeof(length)) return false;
    position += sizeof(length);
    if (length > size - position) return false;
    position += length;
  }
  return position == size && parts % 2 == 0;
}

void require_new_or_store(const std::string& file) {
  const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return;  // not there yet, or c10d says why
  const bool is_usable = is_store(descriptor);
  close(descriptor);  // ends the lock
  if (!is_usable) throw InvalidArgument("Expected a new file for file but " + file + " holds something else");
}

c10::intrusive_ptr<c10d::Store> open_store(const ProcessGroupOptions& options) {
  if (options.store == "file") {
    require_new_or_store(options.file);
    return c10::make_intrusive<c10d::FileStore>(options.file, -1);  // the file is the caller's to remove
  }
  c10d::TCPStoreOptions tcp;
  tcp.port = static_cast<uint16_t>(options.port);
  tcp.isServer = options.hosts_store;
  tcp.numWorkers = static_cast<std::size_t>(options.size);
  tcp.waitWorkers = false;
  tcp.timeout = timeout_of(options);
  // The agent of torchrun serves the same port to several groups, one after the other.
  tcp.multiTenant = true;
  return c10::make_intrusive<c10d::TCPStore>(options.host, tcp);
}

c10::intrusive_ptr<c10d::Backend> make_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                               const ProcessGroupOptions& options) {
  const int rank = static_cast<int>(options.rank), size = static_cast<int>(options.size);
  if (options.backend == "gloo") {
    return c10::make_intrusive<c10d::ProcessGroupGloo>(
        store, rank, size, c10d::ProcessGroupGloo::Options::create_default(timeout_of(options)));
  }
#ifdef USE_C10D_NCCL
  if (options.backend == "nccl") {
    auto nccl = c10d::ProcessGroupNCCL::Options::create();
    nccl->timeout = timeout_of(options);
    return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, nccl);
  }
#endif
  throw InvalidArgument("This build has no backend '" + options.backend + "' for process groups");
}

int64_t now_ms() { return std::chrono::duration_cast<milliseconds>(Clock::now().time_since_epoch()).count(); }

std::string alive_key(int64_t rank) { return "alive/" + std::to_string(rank); }

// Reports in the store, from a thread of its own and on a connection of its own, that this process is alive.
class Heartbeat {
 public:
  Heartbeat(c10::intrusive_ptr<c10d::Store> store, int64_t rank) : store_(std::move(store)), rank_(rank) {
    // Where the folder of a file is gone, c10d waits as long as this for the file to come, and the destructor with it.
    store_->setTimeout(kHeartbeat);
    report();
    thread_ = std::thread([this] { run(); });
  }
  ~Heartbeat() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

 private:
  void run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!changed_.wait_for(lock, kHeartbeat, [this] { return stopped_; })) {
      try {
        report();
      } catch (const std::exception&) {
        return;  // the store is gone, as the next operation reports
      }
    }
  }
  void report() { store_->set(alive_key(rank_), std::to_string(now_ms())); }

  c10::intrusive_ptr<c10d::Store> store_;
  int64_t rank_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::thread thread_;
};

// Waits for an operation, and throws Canceled soon after the job was canceled.
void wait_for(const c10::intrusive_ptr<c10d::Work>& work, bool on_device) {
  constexpr milliseconds kBetweenChecks{50};
  while (!work->isCompleted()) {
    if (on_device) {  // NCCL takes a wait that ran out of time for a failure
      throw_if_canceled();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      continue;
    }
    try {
      work->wait(kBetweenChecks);
    } catch (const std::exception&) {
      if (work->isCompleted()) break;
      throw_if_canceled();
    }
  }
  work->wait();
}

// Tensors of one dtype and device that travel as one: a large one where it lies, or small ones in a copy.
struct Bucket {
  std::vector<at::Tensor> members;
  at::Tensor flat;

  bool lies_flat() const { return members.size() == 1 && members[0].is_contiguous(); }

  void pack() {
    if (lies_flat()) {
      flat = members[0].detach().view({-1});
      return;
    }
    std::vector<at::Tensor> parts;
    for (const at::Tensor& member : members) parts.push_back(member.reshape({-1}));
    flat = at::cat(parts);
  }

  void unpack() {
    if (lies_flat()) {
      members[0].unsafeGetTensorImpl()->bump_version();  // c10d does not, and derived weights depend on it
      return;
    }
    int64_t offset = 0;
    for (const at::Tensor& member : members) {
      member.copy_(flat.narrow(0, offset, member.numel()).view(member.sizes()));
      offset += member.numel();
    }
  }
};

// The tensors that hold something, without those that come again.
std::vector<at::Tensor> distinct(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> result;
  std::set<std::pair<const void*, int64_t>> seen;
  for (const at::Tensor& tensor : tensors) {
    if (tensor.numel() > 0 && seen.emplace(tensor.const_data_ptr(), tensor.numel()).second) result.push_back(tensor);
  }
  return result;
}

// Divides tensors by what all processes have in common: their order, dtypes and sizes, never how they lie in memory.
std::vector<Bucket> make_buckets(const std::vector<at::Tensor>& tensors) {
  std::vector<Bucket> buckets;
  struct Open {
    size_t bucket = 0;
    int64_t free = 0;
  };
  std::map<std::pair<at::ScalarType, std::string>, Open> open;
  for (const at::Tensor& tensor : tensors) {
    const auto bytes = static_cast<int64_t>(tensor.nbytes());
    if (bytes >= kLargeBytes) {
      buckets.push_back({{tensor}, {}});
      continue;
    }
    Open& place = open[{tensor.scalar_type(), tensor.device().str()}];
    if (place.free < bytes) {
      place = {buckets.size(), kBucketBytes};
      buckets.emplace_back();
    }
    buckets[place.bucket].members.push_back(tensor);
    place.free -= bytes;
  }
  return buckets;
}

// What a process is about to do, as numbers that all processes can compare.
std::vector<int64_t> numbers_of(GroupCall call, int64_t root, const std::vector<at::Tensor>& tensors) {
  int64_t values = 0;
  uint64_t shapes = 0;
  const auto mix = [&shapes](int64_t number) { shapes = shapes * 1099511628211U + static_cast<uint64_t>(number) + 1; };
  for (const at::Tensor& tensor : tensors) {
    values += tensor.numel();
    mix(static_cast<int64_t>(tensor.scalar_type()));
    mix(tensor.is_cuda() ? 1 : 0);
    mix(tensor.dim());
    for (const int64_t size : tensor.sizes()) mix(size);
  }
  return {static_cast<int64_t>(call), root, static_cast<int64_t>(tensors.size()), values, static_cast<int64_t>(shapes)};
}

const char* name_of(GroupCall call) {
  constexpr std::array kNames = {"add", "average", "broadcast", "allGather", "barrier"};
  return kNames.at(static_cast<size_t>(call));
}

std::string describe(const std::vector<int64_t>& numbers) {
  const auto call = static_cast<GroupCall>(numbers[0]);
  std::string text = name_of(call);
  if (call == GroupCall::kBarrier) return text;
  if (numbers[1] >= 0) text += " from rank " + std::to_string(numbers[1]);
  return text + " with " + std::to_string(numbers[2]) + " tensors of " + std::to_string(numbers[3]) + " values in all";
}

std::string join_ranks(const std::vector<int64_t>& ranks) {
  std::string text;
  for (const int64_t rank : ranks) text += (text.empty() ? "" : ", ") + std::to_string(rank);
  return text;
}

}  // namespace

struct ProcessGroup::Engine {
  c10::intrusive_ptr<c10d::Store> store;
  std::unique_ptr<Heartbeat> heartbeat;
  c10::intrusive_ptr<c10d::Backend> backend;
  c10::intrusive_ptr<c10d::Backend> for_host;  // NCCL takes no tensors on the CPU
  bool failed = false;

  struct Operation {
    c10::intrusive_ptr<c10d::Work> work;
    bool on_device;
  };

  template <typename Start>
  Operation start(const at::Tensor& tensor, const Start& start_on) {
    const bool on_device = for_host != backend && tensor.is_cuda();
    return {start_on(on_device ? *backend : *for_host, tensor), on_device};
  }
};

std::vector<std::string> process_group_backends() {
#ifdef USE_C10D_NCCL
  return {"gloo", "nccl"};
#else
  return {"gloo"};
#endif
}

ProcessGroup::ProcessGroup(const ProcessGroupOptions& options)
    : options_(options), engine_(std::make_unique<Engine>()) {
  try {
    const auto store = c10::make_intrusive<c10d::PrefixStore>(options.name, open_store(options));
    store->setTimeout(timeout_of(options));
    engine_->store = store;
    engine_->heartbeat =
        std::make_unique<Heartbeat>(c10::make_intrusive<c10d::PrefixStore>(options.name, open_store([&] {
                                                                             ProcessGroupOptions own = options;
                                                                             own.hosts_store = false;
                                                                             return own;
                                                                           }())),
                                    options.rank);
    engine_->backend = make_backend(c10::make_intrusive<c10d::PrefixStore>("group", store), options);
    engine_->for_host = engine_->backend;
    if (options.backend != "gloo") {
      ProcessGroupOptions for_host = options;
      for_host.backend = "gloo";
      engine_->for_host = make_backend(c10::make_intrusive<c10d::PrefixStore>("host", store), for_host);
    }
  } catch (const InvalidArgument&) {
    throw;
  } catch (const std::exception& error) {
    throw ProcessGroupError(failure("start", error.what()));
  }
}

ProcessGroup::~ProcessGroup() = default;

template <typename Operation>
void ProcessGroup::run(const char* name, const Operation& operation) {
  if (engine_->failed) throw ProcessGroupError("The process group has failed before and cannot be used");
  throw_if_canceled();
  try {
    operation();
  } catch (const Canceled&) {
    engine_->failed = true;  // the others are still waiting for this operation
    throw;
  } catch (const std::exception& error) {
    engine_->failed = true;
    throw ProcessGroupError(failure(name, error.what()));
  }
}

struct ProcessGroup::Pending {
  const char* name;
  std::vector<Bucket> buckets;
  std::vector<Engine::Operation> operations;
  std::vector<at::Tensor> gathered;
};

template <typename Start>
std::shared_ptr<ProcessGroup::Pending> ProcessGroup::start(const char* name, const std::vector<at::Tensor>& tensors,
                                                           const Start& start) {
  const at::NoGradGuard no_grad;
  auto pending = std::make_shared<Pending>(Pending{name, make_buckets(distinct(tensors)), {}, {}});
  run(name, [&] {
    for (Bucket& bucket : pending->buckets) {
      bucket.pack();
      pending->operations.push_back(engine_->start(bucket.flat, start));
      bytes_sent_ += static_cast<int64_t>(bucket.flat.nbytes());
    }
  });
  return pending;
}

std::vector<at::Tensor> ProcessGroup::finish(Pending& pending) {
  const at::NoGradGuard no_grad;
  run(pending.name, [&] {
    for (const auto& [work, on_device] : pending.operations) wait_for(work, on_device);
    for (Bucket& bucket : pending.buckets) bucket.unpack();
  });
  return std::move(pending.gathered);
}

void ProcessGroup::abandon() { engine_->failed = true; }

std::shared_ptr<ProcessGroup::Pending> ProcessGroup::start_add(const std::vector<at::Tensor>& tensors,
                                                               const char* name) {
  return start(name, tensors, [](c10d::Backend& backend, const at::Tensor& bucket) {
    std::vector<at::Tensor> buckets = {bucket};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::SUM;
    return backend.allreduce(buckets, options);
  });
}

void ProcessGroup::add(const std::vector<at::Tensor>& tensors) { finish(*start_add(tensors)); }

void ProcessGroup::average(const std::vector<at::Tensor>& tensors) {
  finish(*start_add(tensors, "average"));
  const at::NoGradGuard no_grad;
  for (const at::Tensor& tensor : distinct(tensors)) tensor.div_(static_cast<double>(size()));
}

void ProcessGroup::broadcast(const std::vector<at::Tensor>& tensors, int64_t root) {
  const auto pending = start("broadcast", tensors, [root](c10d::Backend& backend, const at::Tensor& bucket) {
    std::vector<at::Tensor> buckets = {bucket};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return backend.broadcast(buckets, options);
  });
  finish(*pending);
}

std::shared_ptr<ProcessGroup::Pending> ProcessGroup::start_all_gather(const at::Tensor& tensor, const char* name) {
  const at::NoGradGuard no_grad;
  const at::Tensor own = tensor.contiguous();
  auto pending = std::make_shared<Pending>(Pending{name, {}, {}, {}});
  for (int64_t i = 0; i < size(); ++i) pending->gathered.push_back(at::empty_like(own));
  run(name, [&] {
    std::vector<std::vector<at::Tensor>> outputs = {pending->gathered};
    std::vector<at::Tensor> inputs = {own};
    pending->operations.push_back(engine_->start(
        own, [&](c10d::Backend& backend, const at::Tensor&) { return backend.allgather(outputs, inputs); }));
  });
  bytes_sent_ += static_cast<int64_t>(own.nbytes());
  return pending;
}

std::vector<std::vector<int64_t>> ProcessGroup::gather_numbers(const std::vector<int64_t>& numbers, const char* name) {
  std::vector<std::vector<int64_t>> result;
  for (const at::Tensor& found : finish(*start_all_gather(at::tensor(numbers, at::kLong), name))) {
    const auto* first = found.const_data_ptr<int64_t>();
    result.emplace_back(first, first + found.numel());
  }
  return result;
}

void ProcessGroup::require_same(GroupCall call, const std::vector<at::Tensor>& tensors, int64_t root) {
  const auto calls = gather_numbers(numbers_of(call, root, distinct(tensors)), name_of(call));
  for (size_t rank = 1; rank < calls.size(); ++rank) {
    if (calls[rank] == calls[0]) continue;
    std::string text = "Expected the same call from all processes but rank 0 calls " + describe(calls[0]) +
                       " and rank " + std::to_string(rank) + " calls " + describe(calls[rank]);
    if (describe(calls[rank]) == describe(calls[0])) text += ", of other shapes, dtypes or devices";
    throw InvalidArgument(text);
  }
}

std::string ProcessGroup::failure(const char* name, const char* reason) {
  std::vector<int64_t> missing;
  bool has_store = engine_->store.defined();
  if (has_store) engine_->store->setTimeout(kMissedHeartbeats * kHeartbeat);  // also if its folder is gone
  for (int64_t rank = 0; has_store && rank < size(); ++rank) {
    if (rank == this->rank()) continue;
    try {
      const std::string key = alive_key(rank);
      if (!engine_->store->check({key})) {
        missing.push_back(rank);
        continue;
      }
      const std::vector<uint8_t> value = engine_->store->get(key);
      const int64_t last = std::stoll(std::string(value.begin(), value.end()));
      if (now_ms() - last > kMissedHeartbeats * kHeartbeat.count()) missing.push_back(rank);
    } catch (const std::exception&) {
      has_store = false;
    }
  }
  std::string text = "Rank " + std::to_string(rank()) + " of " + std::to_string(size()) + ": " + name + " failed";
  if (!missing.empty()) text += "; no sign of rank " + join_ranks(missing);
  if (!has_store) text += "; the store of the group is gone, and with it most likely rank 0";
  const std::string first_line(reason, std::find(reason, reason + std::strlen(reason), '\n'));
  return text + " (" + first_line + ")";
}

}  // namespace bidiseg
