// A c10d backend that needs neither a GPU nor headers that libtorch's wheels lack.

#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

// Exchanges bytes by way of the store itself: for tests of what lies above a backend. Sums are added in the order of the ranks.
c10::intrusive_ptr<c10d::Backend> make_file_backend(const c10::intrusive_ptr<c10d::Store> &store, int rank, int world);
