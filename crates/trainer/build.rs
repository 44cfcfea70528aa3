//! Lets this crate's tests find libtorch when they start.

// A build script speaks to Cargo on its standard output.
#![allow(clippy::print_stdout)]

#[path = "../torch-ext/build/link.rs"]
mod link;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    link::link_libtorch();
}
