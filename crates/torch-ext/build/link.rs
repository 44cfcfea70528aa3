// Shared by the build scripts of every package whose programs or tests load libtorch: Cargo passes linker
// arguments to the targets of the package that emits them and to no other.

use std::path::PathBuf;

/// Emits the linker arguments with which this package's programs and tests find libtorch when they start.
///
/// Ends the build with one line if `make setup` has not run (Cargo fails a build whose script emits `cargo::error`,
/// and adds a page of noise to it if the script's status says failure too). Returns libtorch's folder.
pub(crate) fn link_libtorch() -> PathBuf {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let root = PathBuf::from(std::env::var_os("LIBTORCH").unwrap_or_default());
    // Setup touches this file when it switches between the CPU and the CUDA flavour.
    println!("cargo::rerun-if-changed={}", root.join("build-version").display());
    let Ok(lib) = root.join("lib").canonicalize() else {
        println!("cargo::error=libtorch is not set up: run `make setup`");
        std::process::exit(0);
    };
    // The resolved folder, so that a program outlives the clone that it was built in.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        link_cuda(&lib);
    }
    root
}

/// Keeps the CUDA half of libtorch in the program: it registers itself when loaded and no symbol of ours names it,
/// so that the linker would drop it.
fn link_cuda(lib: &std::path::Path) {
    // Not libtorch_cuda.so: the CPU flavour has a stub of that name.
    if !lib.join("libc10_cuda.so").exists() {
        println!("cargo::error=this libtorch has no CUDA: run `make setup CUDA=1`");
        std::process::exit(0);
    }
    println!("cargo::rustc-link-arg=-L{}", lib.display());
    for argument in ["-Wl,--no-as-needed", "-ltorch_cuda", "-lc10_cuda", "-ltorch", "-Wl,--as-needed"] {
        println!("cargo::rustc-link-arg={argument}");
    }
    // libcuda.so.1 belongs to the driver, which the building machine need not have.
    println!("cargo::rustc-link-arg=-Wl,--allow-shlib-undefined");
}
