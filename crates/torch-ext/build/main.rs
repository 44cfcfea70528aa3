//! Compiles the C++ shim and lets this crate's tests find libtorch when they start.

// A build script speaks to Cargo on its standard output.
#![allow(clippy::print_stdout)]

mod link;

const SOURCES: &[&str] = &[
    "src/shim.cpp",
    "src/fused/rms_norm.cpp",
    "src/fused/swiglu.cpp",
    "src/fused/rotary.cpp",
    "src/process_group.cpp",
    "src/file_backend.cpp",
];
const HEADERS: &[&str] = &["src/guard.hpp", "src/fused/rows.hpp", "src/process_group.hpp"];

fn main() {
    println!("cargo::rerun-if-changed=build");
    // cc watches no source file: without this line an edited shim would not be rebuilt.
    for source in SOURCES.iter().chain(HEADERS) {
        println!("cargo::rerun-if-changed={source}");
    }
    let libtorch = link::link_libtorch();
    let include = libtorch.join("include");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .files(SOURCES)
        // libtorch's parallel loops are inline and serial without it. The kernels under fused are worthless if they are not
        // optimised, in tests too.
        .flag("-fopenmp")
        .opt_level(3)
        // Nobody looks at the flags of floating point; while they count, a choice between two numbers is a branch.
        .flag("-fno-trapping-math")
        // As system headers: libtorch's own are full of what -Wall warns about.
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        // The wheels' libraries use the C++11 ABI, and so does torch-sys.
        .define("_GLIBCXX_USE_CXX11_ABI", "1");
    let has_cuda = std::env::var_os("CARGO_FEATURE_CUDA").is_some();
    if has_cuda {
        // What the wheels' own libraries were built with: c10d's headers hide NCCL without it. CUDA's headers come from NVIDIA's
        // wheels, so no toolkit is needed.
        for define in ["USE_CUDA", "USE_DISTRIBUTED", "USE_C10D_NCCL"] {
            build.define(define, None);
        }
        for folder in ["cuda/include", "cuda/include/cccl"] {
            build.flag("-isystem").flag(libtorch.join(folder));
        }
    }
    build.compile("brigade_torch_ext");
    // After our archive, which needs them. torch-sys names them too, but the linker reads them in order.
    println!("cargo::rustc-link-search=native={}", libtorch.join("lib").display());
    if has_cuda {
        // ProcessGroupNCCL, the streams that its headers inline, and the runtime under those.
        for library in ["torch_cuda", "c10_cuda", "cudart"] {
            println!("cargo::rustc-link-lib={library}");
        }
    }
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    // The same as libtorch's own: whichever lies first is loaded once, under one name.
    println!("cargo::rustc-link-lib=gomp");
}
