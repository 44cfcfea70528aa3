//! Compiles the C++ shim and lets this crate's tests find libtorch when they start.

// A build script speaks to Cargo on its standard output.
#![allow(clippy::print_stdout)]

mod link;

fn main() {
    println!("cargo::rerun-if-changed=build");
    // cc watches no source file: without this line an edited shim would not be rebuilt.
    println!("cargo::rerun-if-changed=src/shim.cpp");
    println!("cargo::rerun-if-changed=src/fused.cpp");
    let libtorch = link::link_libtorch();
    let include = libtorch.join("include");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .file("src/shim.cpp")
        .file("src/fused.cpp")
        // libtorch's parallel loops are inline and serial without it. The kernels of fused.cpp are worthless if they are not
        // optimised, in tests too.
        .flag("-fopenmp")
        .opt_level(3)
        // As system headers: libtorch's own are full of what -Wall warns about.
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        // The wheels' libraries use the C++11 ABI, and so does torch-sys.
        .define("_GLIBCXX_USE_CXX11_ABI", "1");
    build.compile("brigade_torch_ext");
    // After our archive, which needs them. torch-sys names them too, but the linker reads them in order.
    println!("cargo::rustc-link-search=native={}", libtorch.join("lib").display());
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    // The same as libtorch's own: whichever lies first is loaded once, under one name.
    println!("cargo::rustc-link-lib=gomp");
}
