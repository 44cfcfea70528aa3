//! Compiles the C++ shim and lets this crate's tests find libtorch when they start.

mod link;

fn main() {
    println!("cargo::rerun-if-changed=build");
    let _libtorch = link::link_libtorch();
}
