// The compiler finds this file only where libtorch's own `torch/torch.h` is absent (see .cargo/config.toml).
// It ends with a missing include because compilers go on after an #error, for thousands of lines.
#include "libtorch is not set up: run `make setup`"
