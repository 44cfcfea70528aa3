// The backend for tests: every rank writes its bytes to the store when an operation starts, and reads the others' when it is
// waited for. Slow, and the store only grows.

#include "process_group.hpp"

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Bytes = std::vector<uint8_t>;

class FileWork final : public c10d::Work {
 public:
  explicit FileWork(std::function<void()> finish) : finish_(std::move(finish)) {}

  bool wait(std::chrono::milliseconds /*timeout*/) override {
    // Once: waiting again changes nothing, as on a stream.
    if (finish_) std::exchange(finish_, nullptr)();
    return true;
  }

 private:
  std::function<void()> finish_;
};

class FileBackend final : public c10d::Backend {
 public:
  FileBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int world)
      : Backend(rank, world), store_(std::move(store)) {}

  const std::string getBackendName() const override { return "file"; }

  void abort() override { aborted_ = true; }

  // Whatever fails here is thrown where it is waited for.
  c10d::ErrorType getError() override { return c10d::ErrorType::SUCCESS; }

  c10::intrusive_ptr<c10d::Work> _allgather_base(at::Tensor &full, at::Tensor &shard,
                                                 const c10d::AllgatherOptions & /*options*/) override {
    TORCH_CHECK(full.is_cpu(), "the file backend is for CPU tensors");
    const auto operation = publish(shard);
    return c10::make_intrusive<FileWork>([this_ = self(), operation, full = full] {
      const auto parts = full.chunk(this_->getSize());
      for (int rank = 0; rank < this_->getSize(); ++rank) {
        const auto bytes = this_->take(operation, rank, full.nbytes() / this_->getSize());
        std::memcpy(parts[rank].data_ptr(), bytes.data(), bytes.size());
      }
    });
  }

  c10::intrusive_ptr<c10d::Work> _reduce_scatter_base(at::Tensor &shard, at::Tensor &full,
                                                      const c10d::ReduceScatterOptions & /*options*/) override {
    TORCH_CHECK(full.is_cpu(), "the file backend is for CPU tensors");
    const auto operation = publish(full);
    return c10::make_intrusive<FileWork>([this_ = self(), operation, shard = shard, size = full.nbytes()] {
      at::Tensor out = shard;
      out.zero_();
      auto term = at::empty_like(out);
      for (int rank = 0; rank < this_->getSize(); ++rank) {
        const auto bytes = this_->take(operation, rank, size);
        std::memcpy(term.data_ptr(), bytes.data() + this_->getRank() * term.nbytes(), term.nbytes());
        out.add_(term);
      }
    });
  }

 private:
  c10::intrusive_ptr<FileBackend> self() { return c10::intrusive_ptr<FileBackend>::reclaim_copy(this); }

  static std::string key(uint64_t operation, int rank) {
    return std::to_string(operation) + "/" + std::to_string(rank);
  }

  uint64_t publish(const at::Tensor &tensor) {
    const auto *data = static_cast<const uint8_t *>(tensor.data_ptr());
    const auto operation = operations_++;
    store_->set(key(operation, getRank()), Bytes(data, data + tensor.nbytes()));
    return operation;
  }

  Bytes take(uint64_t operation, int rank, size_t size) {
    while (!store_->check({key(operation, rank)})) {
      TORCH_CHECK(!aborted_, "the operation was aborted");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    auto bytes = store_->get(key(operation, rank));
    TORCH_CHECK(bytes.size() == size, "rank ", rank, " sent ", bytes.size(), " bytes, expected ", size);
    return bytes;
  }

  c10::intrusive_ptr<c10d::Store> store_;
  std::atomic<bool> aborted_{false};
  uint64_t operations_ = 0;
};

}  // namespace

c10::intrusive_ptr<c10d::Backend> make_file_backend(const c10::intrusive_ptr<c10d::Store> &store, int rank, int world) {
  return c10::make_intrusive<FileBackend>(store, rank, world);
}
