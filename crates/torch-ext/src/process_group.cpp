// What ranks do together, over any c10d backend. The rules of shim.cpp hold here too.

#include "process_group.hpp"

#include <torch/csrc/distributed/c10d/FileStore.hpp>

#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <chrono>
#include <string>

#include "guard.hpp"

namespace {

using tensor = at::Tensor *;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// c10d trusts what it is given: NCCL would read and write beside a buffer that is too short.
void check_operands(const at::Tensor &shard, const at::Tensor &full, int64_t world) {
  TORCH_CHECK(shard.defined() && full.defined(), "an undefined tensor");
  TORCH_CHECK(shard.dim() == 1 && full.dim() == 1, "shapes ", shard.sizes(), " and ", full.sizes(), ", expected 1-D");
  TORCH_CHECK(full.numel() == world * shard.numel(), full.numel(), " elements for ", world, " ranks of ",
              shard.numel());
  TORCH_CHECK(shard.scalar_type() == full.scalar_type(), shard.scalar_type(), " and ", full.scalar_type());
  TORCH_CHECK(shard.device() == full.device(), "tensors on ", shard.device(), " and ", full.device());
  TORCH_CHECK(shard.is_contiguous() && full.is_contiguous(), "tensors must be contiguous");
}

#ifdef USE_C10D_NCCL
// Two of its settings come from the environment alone, and both decide whether a loss can be reported at all.
class Nccl final : public c10d::ProcessGroupNCCL {
 public:
  Nccl(const c10::intrusive_ptr<c10d::Store> &store, int rank, int world, c10::intrusive_ptr<Options> options)
      : ProcessGroupNCCL(store, rank, world, std::move(options)) {
    // Its watchdog thread would else end the process when an operation fails, before anybody can say which rank is lost.
    // That thread reads this only when an operation was started, which none was.
    asyncErrorHandling_ = c10d::CleanUpOnly;
    // wait() is for the stream, never for the host.
    blockingWait_ = false;
  }
};
#endif

BackendPtr make_nccl([[maybe_unused]] const c10::intrusive_ptr<c10d::Store> &store, [[maybe_unused]] int rank,
                     [[maybe_unused]] int world, [[maybe_unused]] int64_t timeout) {
#ifdef USE_C10D_NCCL
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = std::chrono::milliseconds(timeout);
  return c10::make_intrusive<Nccl>(store, rank, world, std::move(options));
#else
  TORCH_CHECK(false, "this program was built without NCCL");
#endif
}

// Hands a work out; who started it keeps its tensors until it was waited for.
void hand_out(WorkPtr work, WorkPtr **out) {
  TORCH_CHECK(work, "the backend started nothing");
  *out = new WorkPtr(std::move(work));
}

}  // namespace

extern "C" {

// `transport` is 0 for NCCL, 1 for the file itself. The store is a file that all ranks can open and that is empty at first.
char *btx_group_new(uint8_t transport, const char *path, int rank, int world, int64_t timeout, BackendPtr **out) {
  return guarded([&] {
    TORCH_CHECK(world > 0 && rank >= 0 && rank < world, "rank ", rank, " of ", world);
    c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::FileStore>(std::string(path), world);
    store->setTimeout(std::chrono::milliseconds(timeout));
    auto backend = transport == 0 ? make_nccl(store, rank, world, timeout) : make_file_backend(store, rank, world);
    *out = new BackendPtr(std::move(backend));
  });
}

char *btx_group_all_gather(BackendPtr *group, tensor full, tensor shard, WorkPtr **out) {
  return guarded([&] {
    check_operands(*shard, *full, (*group)->getSize());
    c10::NoGradGuard no_grad;
    hand_out((*group)->_allgather_base(*full, *shard), out);
  });
}

char *btx_group_reduce_scatter(BackendPtr *group, tensor shard, tensor full, WorkPtr **out) {
  return guarded([&] {
    check_operands(*shard, *full, (*group)->getSize());
    c10::NoGradGuard no_grad;
    // The options' default is the sum.
    hand_out((*group)->_reduce_scatter_base(*shard, *full), out);
  });
}

char *btx_group_abort(BackendPtr *group) {
  return guarded([&] { (*group)->abort(); });
}

char *btx_group_check(BackendPtr *group) {
  return guarded([&] {
    const auto error = (*group)->getError();
    TORCH_CHECK(error != c10d::ErrorType::TIMEOUT, "an operation has not ended in time");
    TORCH_CHECK(error == c10d::ErrorType::SUCCESS, "an operation has failed");
  });
}

// Not the destructor's own way out: it would wait for ranks that may be gone.
void btx_group_free(BackendPtr *group) {
  free(guarded([&] { (*group)->abort(); }));
  free(guarded([&] { delete group; }));
}

char *btx_work_wait(WorkPtr *work) {
  return guarded([&] { TORCH_CHECK((*work)->wait(), "the operation was given up"); });
}

void btx_work_free(WorkPtr *work) {
  free(guarded([&] { delete work; }));
}

}  // extern "C"
