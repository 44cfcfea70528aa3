//! Lets this crate's tests find libtorch when they start.

#[path = "../torch-ext/build/link.rs"]
mod link;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    link::link_libtorch();
}
