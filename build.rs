//! Lets the program find libtorch when it starts; nothing to do for the roles that need no libtorch.

// A build script speaks to Cargo on its standard output.
#![allow(clippy::print_stdout)]

#[path = "crates/torch-ext/build/link.rs"]
mod link;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_some() {
        link::link_libtorch();
    }
}
